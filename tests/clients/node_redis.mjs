// node-redis (current) as applications use it. See check.mjs for the arguments.
import { createRequire } from 'node:module';
import path from 'node:path';
import { Suite } from './check.mjs';

// The packages are wherever NODE_PATH says: nothing is installed beside the scripts.
const require = createRequire(path.join(process.env.NODE_PATH ?? 'node_modules', 'x.js'));
const { createClient, createClientPool, defineScript, BasicClientSideCache } = require('redis');
const { version } = require('@redis/client/package.json');

const suite = new Suite('node-redis', version);
const { args } = suite;
const key = (name) => suite.key(name);

function options(extra = {}) {
  return {
    RESP: args.protocol,
    socket: { host: args.host, port: args.port, reconnectStrategy: false },
    ...extra,
  };
}

const opened = [];
async function connect(extra = {}, make = createClient) {
  const client = make(options(extra));
  client.on('error', () => {}); // a lost connection shows as the rejected command
  await client.connect();
  opened.push(client);
  return client;
}

const direct = createClient({ RESP: args.protocol, socket: { host: args.directHost, port: args.directPort } });
direct.on('error', () => {});
await direct.connect();
opened.push(direct);
const r = await connect();

async function blockedClients() {
  return Number(/blocked_clients:(\d+)/.exec(await direct.info('clients'))[1]);
}

suite.check('plain commands', async () => {
  for (let n = 0; n < suite.size(200, 50); n += 1) {
    suite.equal(await r.set(key(`k${n}`), `v${n}`), 'OK');
    suite.equal(await r.get(key(`k${n}`)), `v${n}`);
  }
  suite.equal(await r.mGet([key('k1'), key('none'), key('k2')]), ['v1', null, 'v2']);
  suite.equal(await r.hSet(key('h'), { a: '1', b: '2' }), 2);
  suite.equal({ ...(await r.hGetAll(key('h'))) }, { a: '1', b: '2' });
  await r.zAdd(key('z'), [{ score: 1.5, value: 'm' }]);
  suite.equal(await r.zScore(key('z'), 'm'), 1.5);
  suite.equal(await r.zRangeWithScores(key('z'), 0, -1), [{ value: 'm', score: 1.5 }]);
  await suite.rejects('WRONGTYPE', r.lPush(key('k1'), 'x'));
  await suite.rejects("unknown command 'NOSUCH'", r.sendCommand(['NOSUCH']));
  suite.equal(await direct.get(key('k7')), 'v7');
});

suite.check('deep implicit pipeline', async () => {
  const count = suite.size(5000, 1000);
  const replies = await Promise.all(
    Array.from({ length: count }, (_, n) => (n % 3 ? r.echo(`e${n}`) : r.incr(key('counter')))),
  );
  replies.forEach((reply, n) => suite.equal(reply, n % 3 ? `e${n}` : n / 3 + 1, `reply ${n}`));
});

suite.check('a pipeline longer than any buffer', async () => {
  const value = 'v'.repeat(1024);
  // By default node-redis gives a command up after 5 s, from when it is asked for.
  const long = await connect({ commandOptions: { timeout: 60000 } });
  const replies = await Promise.all(
    Array.from({ length: 40000 }, (_, n) => (n % 2 ? long.get(key(`l${n >> 1 & 1023}`)) : long.set(key(`l${n >> 1 & 1023}`), value))),
  );
  replies.forEach((reply, n) => suite.equal(reply, n % 2 ? value : 'OK', `reply ${n}`));
});

suite.check('big values', async () => {
  for (const size of [0, 1, 16383, 16385, 65537, 1 << 20, (3 << 20) + 1]) {
    const value = 'abcdefghij'.repeat(size / 10 + 1).slice(0, size);
    await r.set(key('big'), value);
    suite.true((await r.get(key('big'))) === value, `value of ${size} bytes`);
  }
});

suite.check('multi', async () => {
  for (let n = 0; n < suite.size(100, 20); n += 1) {
    const replies = await r.multi().set(key('m'), `${n}`).get(key('m')).incr(key('mi')).ping().exec();
    suite.equal(replies, ['OK', `${n}`, n + 1, 'PONG']);
  }
  const many = await Promise.all(
    Array.from({ length: 50 }, (_, n) => r.multi().set(key(`m${n}`), `${n}`).get(key(`m${n}`)).exec()),
  );
  many.forEach((reply, n) => suite.equal(reply, ['OK', `${n}`]));
  const unordered = await r.multi().set(key('p'), '1').get(key('p')).execAsPipeline();
  suite.equal(unordered, ['OK', '1']);
});

suite.check('watch', async () => {
  const pool = await connect({}, (o) => createClientPool(o, { maximum: 8 }));
  let retries = 0;
  const add = () =>
    pool.execute(async (client) => {
      for (;;) {
        await client.watch(key('watched'));
        const value = Number((await client.get(key('watched'))) ?? 0);
        try {
          await client.multi().set(key('watched'), `${value + 1}`).exec();
          return;
        } catch (error) {
          suite.equal(error.constructor.name, 'WatchError', error.message);
          retries += 1;
        }
      }
    });
  const count = suite.size(60, 20);
  await Promise.all(Array.from({ length: count }, add));
  suite.equal(await direct.get(key('watched')), `${count}`, `no lost update, ${retries} retries`);
  await r.watch(key('watched'));
  await direct.incr(key('watched'));
  await suite.rejects('watched keys', r.multi().set(key('never'), '1').exec());
  suite.equal(await direct.exists(key('never')), 0);
});

suite.check('pub/sub', async () => {
  const count = suite.size(20, 5);
  const messages = suite.size(50, 20);
  const got = Array.from({ length: count }, () => []);
  const subscribers = await Promise.all(got.map(() => connect()));
  await Promise.all(
    subscribers.map(async (s, n) => {
      await s.subscribe(key('ch'), (message) => got[n].push(message));
      await s.pSubscribe(`${suite.prefix}:pat*`, (message) => got[n].push(message));
    }),
  );
  const expected = [];
  for (let n = 0; n < messages; n += 1) {
    suite.equal(await r.publish(key('ch'), `c${n}`), count);
    suite.equal(await r.publish(key('pattern'), `p${n}`), count);
    expected.push(`c${n}`, `p${n}`);
  }
  for (let n = 0; n < count; n += 1) {
    await suite.eventually(`subscriber ${n} has all`, () => got[n].length >= expected.length);
    suite.equal(got[n], expected, 'messages in order');
  }
  await Promise.all(subscribers.map((s) => s.unsubscribe(key('ch'))));
  suite.equal(await r.publish(key('ch'), 'late'), 0);
  await Promise.all(subscribers.map((s) => s.pUnsubscribe()));
  const after = await Promise.all(subscribers.map((s, n) => s.echo(`back ${n}`)));
  // The library gives a Buffer for the first reply after leaving RESP2 subscribed mode, also without a proxy.
  suite.equal(after.map(String), subscribers.map((_, n) => `back ${n}`));
  subscribers.forEach((s) => s.destroy());
});

suite.check('RESP3 commands on a subscribed client', async () => {
  if (args.protocol !== 3) return suite.skipped.push('RESP3 commands on a subscribed client: needs RESP3');
  const s = await connect();
  const got = [];
  await s.subscribe(key('mixed'), (message) => got.push(message));
  for (let n = 0; n < suite.size(200, 50); n += 1) {
    const [published, echoed] = await Promise.all([direct.publish(key('mixed'), `${n}`), s.echo(`e${n}`)]);
    suite.equal([published >= 1, echoed], [true, `e${n}`]);
  }
  await suite.eventually('all messages', () => got.length === suite.size(200, 50));
  suite.equal(got, got.map((_, n) => `${n}`));
  s.destroy();
});

suite.check('blocking', async () => {
  const pool = await connect({}, (o) => createClientPool(o, { maximum: 20 }));
  const started = Date.now();
  suite.equal(await pool.blPop(key('none'), 0.2), null);
  const waited = Date.now() - started;
  suite.true(waited >= 199 && waited < 1500, `BLPOP 0.2 took ${waited} ms`);
  const count = suite.size(20, 10);
  const pops = Array.from({ length: count }, () => pool.blPop(key('q'), 20));
  await suite.eventually('someone waits', async () => (await blockedClients()) > 0);
  for (let n = 0; n < count; n += 1) await r.rPush(key('q'), `${n}`);
  const popped = await Promise.all(pops);
  suite.equal(popped.map((p) => Number(p.element)).sort((a, b) => a - b), popped.map((_, n) => n));
  suite.true(popped.every((p) => p.key === key('q')), 'the key');
  const own = await r.duplicate().on('error', () => {}).connect();
  const last = own.blPop([key('q1'), key('q2')], 20);
  await suite.eventually('blocked', async () => (await blockedClients()) > 0);
  await direct.rPush(key('q2'), 'from direct');
  suite.equal({ ...(await last) }, { key: key('q2'), element: 'from direct' });
  own.destroy();
});

suite.check('scripts', async () => {
  const scripts = {
    add: defineScript({
      NUMBER_OF_KEYS: 1,
      SCRIPT: "return {ARGV[1], redis.call('INCRBY', KEYS[1], ARGV[1])}",
      parseCommand: (parser, name, by) => {
        parser.pushKey(name);
        parser.push(`${by}`);
      },
      transformReply: undefined,
    }),
  };
  const s = await connect({ scripts });
  let total = 0;
  for (let n = 1; n <= suite.size(60, 15); n += 1) {
    if (n % 10 === 0) await direct.scriptFlush();
    total += n;
    suite.equal(await s.add(key('script'), n), [`${n}`, total]);
  }
  suite.equal(await s.eval('return ARGV[1]', { arguments: ['tok'] }), 'tok');
  s.destroy();
});

suite.check('scan', async () => {
  const count = suite.size(1000, 200);
  await Promise.all(Array.from({ length: count }, (_, n) => r.set(key(`scan:${n}`), '1')));
  const found = new Set();
  for await (const keys of r.scanIterator({ MATCH: `${suite.prefix}:scan:*`, COUNT: 100 })) {
    keys.forEach((k) => found.add(k));
  }
  suite.equal(found.size, count);
});

suite.check('databases, names, users', async () => {
  const one = await connect({ database: 1, name: `${suite.prefix}-one` });
  await one.set(key('db'), 'one');
  suite.equal(await r.get(key('db')), null);
  suite.equal(await one.get(key('db')), 'one');
  suite.equal(await one.clientGetName(), `${suite.prefix}-one`);
  const id = await one.clientId();
  suite.equal((await one.clientInfo()).id, id);
  suite.equal((await one.clientInfo()).db, 1);
  suite.true((await r.clientList()).some((c) => c.id === id && c.name === `${suite.prefix}-one`), 'CLIENT LIST');
  await one.select(2);
  suite.equal(await one.get(key('db')), null);
  await suite.rejects('DB index is out of range', connect({ database: 9999 }));
  const user = `u-${suite.prefix}`;
  await direct.aclSetUser(user, ['on', '>pw', '~*', '&*', '+@all']);
  const bob = await connect({ username: user, password: 'pw' });
  const who = await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? bob : r).aclWhoAmI()));
  suite.equal(who, who.map((_, n) => (n % 2 ? user : 'default')));
  await suite.rejects('WRONGPASS', connect({ username: user, password: 'no' }));
  bob.destroy();
  await direct.aclDelUser(user);
});

suite.check('client-side cache', async () => {
  if (args.protocol !== 3) return suite.skipped.push('client-side cache: needs RESP3');
  const cache = new BasicClientSideCache({ ttl: 0, maxEntries: 100 });
  const c = await connect({ clientSideCache: cache });
  await r.set(key('cached'), 'one');
  suite.equal(await c.get(key('cached')), 'one');
  suite.equal(await c.get(key('cached')), 'one');
  suite.true(cache.stats().hitCount >= 1, 'the second read came from the cache');
  await r.set(key('cached'), 'two');
  await suite.eventually('invalidated', async () => (await c.get(key('cached'))) === 'two');
  await direct.set(key('cached'), 'three');
  await suite.eventually('invalidated by a direct write', async () => (await c.get(key('cached'))) === 'three');
  c.destroy();
});

suite.check('streams', async () => {
  await r.xGroupCreate(key('x'), 'g', '$', { MKSTREAM: true });
  const reader = await r.duplicate().on('error', () => {}).connect();
  const reading = reader.xReadGroup('g', 'c', { key: key('x'), id: '>' }, { BLOCK: 10000 });
  await suite.eventually('blocked', async () => (await blockedClients()) > 0);
  const id = await r.xAdd(key('x'), '*', { f: 'v' });
  suite.true(JSON.stringify(await reading).includes(id), 'the blocked reader gets the entry');
  suite.equal(await r.xAck(key('x'), 'g', id), 1);
  suite.equal(await reader.xReadGroup('g', 'c', { key: key('x'), id: '>' }, { BLOCK: 50 }), null);
  reader.destroy();
});

suite.check('monitor', async () => {
  const m = await connect();
  const lines = [];
  await m.monitor((line) => lines.push(String(line)));
  for (let n = 0; n < 5; n += 1) await r.set(key('monitored'), `${n}`);
  const seen = () => lines.filter((line) => line.includes(key('monitored')));
  await suite.eventually('five lines', () => seen().length >= 5);
  suite.true(seen().every((line, n) => line.includes(`"${n}"`)), 'in order');
  m.destroy();
});

await suite.run(async () => {
  opened.filter((client) => client.isOpen).forEach((client) => client.destroy());
});
