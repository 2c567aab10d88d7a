// ioredis (current) as applications use it. See check.mjs for the arguments.
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { Suite } from './check.mjs';

// The packages are wherever NODE_PATH says: nothing is installed beside the scripts.
const require = createRequire(path.join(process.env.NODE_PATH ?? 'node_modules', 'x.js'));
const { Redis } = require('ioredis');
const { version } = require('ioredis/package.json');

const suite = new Suite('ioredis', version);
const { args } = suite;
const key = (name) => suite.key(name);

const opened = [];
function connect(extra = {}, host = args.host, port = args.port) {
  const client = new Redis({ host, port, protocol: args.protocol, maxRetriesPerRequest: 0, retryStrategy: null, ...extra });
  client.on('error', () => {}); // a lost connection shows as the rejected command
  opened.push(client);
  return client;
}

const direct = connect({}, args.directHost, args.directPort);
const r = connect();

async function blockedClients() {
  return Number(/blocked_clients:(\d+)/.exec(await direct.info('clients'))[1]);
}

suite.check('plain commands', async () => {
  for (let n = 0; n < suite.size(200, 50); n += 1) {
    suite.equal(await r.set(key(`k${n}`), `v${n}`), 'OK');
    suite.equal(await r.get(key(`k${n}`)), `v${n}`);
  }
  suite.equal(await r.mget(key('k1'), key('none'), key('k2')), ['v1', null, 'v2']);
  suite.equal(await r.hset(key('h'), { a: '1', b: '2' }), 2);
  suite.equal({ ...(await r.hgetall(key('h'))) }, { a: '1', b: '2' });
  await r.zadd(key('z'), 1.5, 'm', 2, 'n');
  suite.equal(await r.zrange(key('z'), 0, -1, 'WITHSCORES'), await direct.zrange(key('z'), 0, -1, 'WITHSCORES'));
  await suite.rejects('WRONGTYPE', r.lpush(key('k1'), 'x'));
  await suite.rejects("unknown command 'NOSUCH'", r.call('NOSUCH'));
  suite.equal(await r.getBuffer(key('k3')), Buffer.from('v3'));
});

suite.check('implicit and explicit pipelines', async () => {
  const count = suite.size(5000, 1000);
  const replies = await Promise.all(Array.from({ length: count }, (_, n) => (n % 3 ? r.echo(`e${n}`) : r.incr(key('c')))));
  replies.forEach((reply, n) => suite.equal(reply, n % 3 ? `e${n}` : n / 3 + 1, `reply ${n}`));
  for (const size of [1, 16, 200, suite.size(2000, 500)]) {
    const pipeline = r.pipeline();
    for (let n = 0; n < size; n += 1) pipeline.set(key(`p${n}`), `${size}-${n}`).get(key(`p${n}`));
    const got = await pipeline.exec();
    suite.equal(got.length, size * 2);
    got.forEach(([error, reply], n) => suite.equal([error, reply], [null, n % 2 ? `${size}-${(n - 1) / 2}` : 'OK']));
  }
});

suite.check('a pipeline longer than any buffer', async () => {
  const value = 'v'.repeat(1024);
  const pipeline = r.pipeline();
  for (let n = 0; n < 20000; n += 1) pipeline.set(key(`l${n & 1023}`), value).get(key(`l${n & 1023}`));
  const got = await pipeline.exec();
  suite.equal(got.length, 40000);
  got.forEach(([error, reply], n) => suite.equal([error, reply], [null, n % 2 ? value : 'OK'], `reply ${n}`));
});

suite.check('auto-pipelining', async () => {
  const auto = connect({ enableAutoPipelining: true });
  const count = suite.size(2000, 300);
  const replies = await Promise.all(Array.from({ length: count }, (_, n) => auto.echo(`a${n}`)));
  replies.forEach((reply, n) => suite.equal(reply, `a${n}`));
  auto.disconnect();
});

suite.check('multi', async () => {
  for (let n = 0; n < suite.size(100, 20); n += 1) {
    const replies = await r.multi().set(key('m'), `${n}`).get(key('m')).incr(key('mi')).exec();
    suite.equal(replies, [[null, 'OK'], [null, `${n}`], [null, n + 1]]);
  }
  await r.multi({ pipeline: false });
  suite.equal(await r.set(key('single'), '1'), 'QUEUED');
  suite.equal(await r.get(key('single')), 'QUEUED');
  suite.equal(await r.exec(), [[null, 'OK'], [null, '1']]);
  await suite.rejects('EXECABORT', r.multi().set(key('never'), '1').call('NOSUCH').exec());
  suite.equal(await direct.exists(key('never')), 0);
  await r.watch(key('single'));
  await direct.incr(key('single'));
  suite.equal(await r.multi().set(key('never'), '1').exec(), null);
  suite.equal(await direct.exists(key('never')), 0);
});

suite.check('watch loops', async () => {
  const workers = suite.size(8, 4);
  const each = suite.size(15, 8);
  await Promise.all(
    Array.from({ length: workers }, async () => {
      const c = connect();
      for (let n = 0; n < each; n += 1) {
        for (let done = null; done === null; ) {
          await c.watch(key('watched'));
          const value = Number((await c.get(key('watched'))) ?? 0);
          done = await c.multi().set(key('watched'), value + 1).exec();
        }
      }
      c.disconnect();
    }),
  );
  suite.equal(await direct.get(key('watched')), `${workers * each}`, 'no lost update');
});

suite.check('own commands', async () => {
  const c = connect({
    scripts: { addTo: { numberOfKeys: 1, lua: `return {ARGV[1], redis.call('INCRBY', KEYS[1], ARGV[1])} --${randomUUID()}` } },
  });
  let total = 0;
  for (let n = 1; n <= suite.size(60, 15); n += 1) {
    if (n % 10 === 0) await direct.script('FLUSH');
    total += n;
    suite.equal(await c.addTo(key('script'), n), [`${n}`, total]);
  }
  c.defineCommand('both', { numberOfKeys: 0, lua: 'return {ARGV[2], ARGV[1]}' });
  suite.equal(await c.both('a', 'b'), ['b', 'a']);
  const piped = await c.pipeline().both('1', '2').addTo(key('script'), 0).exec();
  suite.equal(piped, [[null, ['2', '1']], [null, ['0', total]]]);
  c.disconnect();
});

suite.check('pub/sub', async () => {
  const count = suite.size(20, 5);
  const messages = suite.size(50, 20);
  const subscribers = Array.from({ length: count }, () => connect());
  const got = subscribers.map(() => []);
  await Promise.all(
    subscribers.map(async (s, n) => {
      s.on('message', (channel, message) => got[n].push(`${channel}=${message}`));
      s.on('pmessage', (_, channel, message) => got[n].push(`${channel}=${message}`));
      suite.equal(await s.subscribe(key('ch'), key(`ch${n}`)), 2);
      suite.equal(await s.psubscribe(`${suite.prefix}:pat*`), 3);
    }),
  );
  const common = [];
  for (let n = 0; n < messages; n += 1) {
    suite.equal(await r.publish(key('ch'), `${n}`), count);
    suite.equal(await r.publish(key('pattern'), `${n}`), count);
    common.push(`${key('ch')}=${n}`, `${key('pattern')}=${n}`);
  }
  for (let n = 0; n < count; n += 1) {
    suite.equal(await r.publish(key(`ch${n}`), 'own'), 1);
    await suite.eventually(`subscriber ${n} has all`, () => got[n].length >= common.length + 1);
    suite.equal(got[n], [...common, `${key(`ch${n}`)}=own`], 'messages in order');
  }
  const left = await Promise.all(
    subscribers.map(async (s, n) => {
      suite.equal(await s.unsubscribe(key('ch'), key(`ch${n}`)), 1);
      return s.punsubscribe(`${suite.prefix}:pat*`);
    }),
  );
  suite.equal(left, left.map(() => 0));
  suite.equal(await Promise.all(subscribers.map((s, n) => s.echo(`${n}`))), subscribers.map((_, n) => `${n}`));
  subscribers.forEach((s) => s.disconnect());
});

suite.check('blocking', async () => {
  const started = Date.now();
  suite.equal(await r.blpop(key('none'), 0.2), null);
  const waited = Date.now() - started;
  suite.true(waited >= 199 && waited < 1500, `BLPOP 0.2 took ${waited} ms`);
  const count = suite.size(30, 10);
  const clients = Array.from({ length: count }, () => connect());
  const pops = clients.map((c) => c.blpop(key('q1'), key('q2'), 20));
  await suite.eventually('someone waits', async () => (await blockedClients()) > 0);
  for (let n = 0; n < count; n += 1) await r.rpush(key('q2'), n);
  const popped = await Promise.all(pops);
  suite.equal(popped.map(([, v]) => Number(v)).sort((a, b) => a - b), popped.map((_, n) => n), 'each element once');
  const behind = [clients[0].blpop(key('q3'), 20), clients[0].set(key('behind'), '1'), clients[0].get(key('behind'))];
  await suite.eventually('blocked', async () => (await blockedClients()) > 0);
  suite.equal(await direct.exists(key('behind')), 0, 'what follows a blocked command waits');
  await direct.rpush(key('q3'), 'x');
  suite.equal(await Promise.all(behind), [[key('q3'), 'x'], 'OK', '1']);
  await r.zadd(key('bz'), 1, 'm');
  suite.equal(await r.bzpopmin(key('bz'), 1), [key('bz'), 'm', '1']);
  clients.forEach((c) => c.disconnect());
});

suite.check('databases, names, users', async () => {
  const one = connect({ db: 1, connectionName: `${suite.prefix}-one` });
  await one.set(key('db'), 'one');
  suite.equal(await r.get(key('db')), null);
  suite.equal(await one.get(key('db')), 'one');
  suite.equal(await one.client('GETNAME'), `${suite.prefix}-one`);
  const id = await one.client('ID');
  suite.true((await r.client('LIST')).includes(`id=${id} `), 'CLIENT LIST shows the id');
  suite.true((await r.client('LIST')).includes(`name=${suite.prefix}-one `), 'CLIENT LIST shows the name');
  await one.select(2);
  suite.equal(await one.get(key('db')), null);
  const user = `u-${suite.prefix}`;
  await direct.acl('SETUSER', user, 'on', '>pw', '~*', '&*', '+@all');
  const bob = connect({ username: user, password: 'pw' });
  const who = await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? bob : r).acl('WHOAMI')));
  suite.equal(who, who.map((_, n) => (n % 2 ? user : 'default')));
  bob.disconnect();
  await direct.acl('DELUSER', user);
});

suite.check('reconnect', async () => {
  const c = connect({ retryStrategy: () => 20, maxRetriesPerRequest: 20, db: 1, connectionName: `${suite.prefix}-back` });
  await c.set(key('back'), 'here');
  for (let n = 0; n < suite.size(5, 2); n += 1) {
    const id = await c.client('ID');
    suite.equal(await r.client('KILL', 'ID', id), 1);
    suite.equal(await c.get(key('back')), 'here', 'after a reconnect, in the same database');
    suite.true((await c.client('ID')) !== id, 'a new connection has a new id');
    suite.equal(await c.client('GETNAME'), `${suite.prefix}-back`);
  }
  c.disconnect();
});

suite.check('streams and scan', async () => {
  await r.xgroup('CREATE', key('x'), 'g', '$', 'MKSTREAM');
  const reader = connect();
  const reading = reader.xreadgroup('GROUP', 'g', 'c', 'BLOCK', 10000, 'STREAMS', key('x'), '>');
  await suite.eventually('blocked', async () => (await blockedClients()) > 0);
  const id = await r.xadd(key('x'), '*', 'f', 'v');
  suite.true(JSON.stringify(await reading).includes(id), 'the blocked reader gets the entry');
  suite.equal(await r.xack(key('x'), 'g', id), 1);
  reader.disconnect();
  const count = suite.size(500, 100);
  await Promise.all(Array.from({ length: count }, (_, n) => r.set(key(`scan:${n}`), '1')));
  const found = new Set();
  for await (const keys of r.scanStream({ match: `${suite.prefix}:scan:*`, count: 100 })) keys.forEach((k) => found.add(k));
  suite.equal(found.size, count);
});

suite.check('monitor', async () => {
  // The library takes what another connection does for a reply if it comes in one packet with MONITOR's +OK.
  let m;
  for (let tries = 0; !m; tries += 1) {
    try {
      m = await connect().monitor();
    } catch (error) {
      if (tries === 5 || !String(error).includes('Command queue state error')) throw error;
    }
  }
  opened.push(m);
  const lines = [];
  m.on('monitor', (_, command) => lines.push(command));
  for (let n = 0; n < 5; n += 1) await r.set(key('monitored'), `${n}`);
  const seen = () => lines.filter((line) => line.includes(key('monitored')));
  await suite.eventually('five lines', () => seen().length >= 5);
  suite.equal(seen().map((line) => line.at(-1)), ['0', '1', '2', '3', '4']);
  m.disconnect();
});

await suite.run(async () => {
  opened.forEach((client) => client.disconnect());
});
