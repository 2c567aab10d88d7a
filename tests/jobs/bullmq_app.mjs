// BullMQ on ioredis: `node bullmq_app.mjs enqueue FIRST LAST | work NAME`. REDIS_URL says where.
import { createRequire } from 'node:module';
import path from 'node:path';
import process from 'node:process';

// The packages are wherever NODE_PATH says: nothing is installed beside the scripts.
const require = createRequire(path.join(process.env.NODE_PATH, 'x.js'));
const { Queue, QueueEvents, Worker } = require('bullmq');
const { Redis } = require('ioredis');

const url = process.env.REDIS_URL;
const pause = Number(process.env.JOB_SECONDS) * 1000;
const connect = () => new Redis(url, { maxRetriesPerRequest: null });
const [what, ...rest] = process.argv.slice(2);

async function enqueue(first, last) {
  const queue = new Queue('jobs', { connection: connect() });
  // XREAD BLOCK on the stream of events, as applications wait for results.
  const events = new QueueEvents('jobs', { connection: connect() });
  await events.waitUntilReady();
  const awaited = [];
  for (let start = first; start < last; start += 100) {
    const jobs = [];
    for (let n = start; n < Math.min(start + 100, last); n += 1) {
      jobs.push({ name: 'work', data: { n }, opts: { jobId: `job-${n}`, attempts: 5 } });
    }
    const added = await queue.addBulk(jobs);
    awaited.push(added[0].waitUntilFinished(events, 600000));
  }
  await Promise.all(awaited);
  console.log((await queue.getWorkers()).length);
  process.exit(0);
}

function work() {
  const store = connect();
  const options = { connection: connect(), concurrency: 4, lockDuration: 4000, stalledInterval: 3000, maxStalledCount: 20 };
  const worker = new Worker(
    'jobs',
    async (job) => {
      await new Promise((resolve) => setTimeout(resolve, pause));
      await store.multi().sadd('done', job.data.n).hincrby('times', job.data.n, 1).exec();
      return job.data.n;
    },
    options,
  );
  worker.on('error', (error) => console.error(String(error)));
}

if (what === 'enqueue') await enqueue(...rest.map(Number));
else work();
