// Sequential callers with node-redis or ioredis as they come: each has a connection of its own, counts with INCR, and
// pauses between two commands. The answer must be one more than the last: a command that was lost or ran twice shows.
// Says "ready", works until its standard input ends, then says what was seen in a line of JSON.
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

// The packages are wherever NODE_PATH says: nothing is installed beside the scripts.
const require = createRequire(path.join(process.env.NODE_PATH ?? 'node_modules', 'x.js'));
const { values: args } = parseArgs({
  options: { port: { type: 'string' }, arm: { type: 'string' }, callers: { type: 'string' }, least: { type: 'string' }, most: { type: 'string' } },
});
const [port, least, most] = [Number(args.port), Number(args.least), Number(args.most)];
const failures = [];
const wrong = [];
let [commands, stopped] = [0, false];

async function connect() {
  if (args.arm.startsWith('ioredis')) {
    const Redis = require('ioredis');
    const client = new Redis({ host: '127.0.0.1', port });
    client.on('error', () => {}); // a lost connection shows as the rejected command
    return client;
  }
  const { createClient } = require('redis');
  const told = args.arm.includes('told');
  const client = createClient({ socket: { host: '127.0.0.1', port }, ...(told ? {} : { maintNotifications: 'disabled' }) });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function resume(client, key) {
  for (;;) {
    try {
      return Number((await client.get(key)) ?? 0);
    } catch {
      await sleep(10);
    }
  }
}

async function call(number) {
  const client = await connect();
  const key = `${args.arm}:${number}`;
  let want = 0;
  while (!stopped) {
    try {
      want += 1;
      const got = await client.incr(key);
      commands += 1;
      if (got !== want) {
        wrong.push(`${key}: ${got} instead of ${want}`);
        want = got;
      }
    } catch (error) {
      failures.push(`${key} ${want}: ${error}`);
      want = await resume(client, key);
    }
    if (most > 0) await sleep(least + Math.random() * (most - least));
  }
}

const callers = Array.from({ length: Number(args.callers) }, (_, number) => call(number));
console.log('ready');
process.stdin.on('end', async () => {
  stopped = true;
  await Promise.all(callers);
  const said = [...failures, ...wrong].slice(0, 5);
  console.log(JSON.stringify({ commands, failed: failures.length, wrong: wrong.length, said }));
  process.exit(0);
});
process.stdin.resume();
