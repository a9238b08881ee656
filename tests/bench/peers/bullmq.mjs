// BullMQ: `work` starts one process of 100 at once; `register N due_us` adds N delayed jobs, 500 a call.
import { openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.BENCH_NODE}/package.json`);
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');
const Redis = IORedis.default ?? IORedis;
const connection = new Redis({ path: process.env.BENCH_REDIS, maxRetriesPerRequest: null });
const [what, number, due] = process.argv.slice(2);

if (what === 'work') {
  const file = openSync(process.env.CLOCKJACK_EFFECTS, 'a');
  const worker = new Worker(
    'bench',
    async (job) => {
      const now = Date.now();
      writeSync(file, `${job.data.key} 1 ${job.data.due_us} ${now * 1000} ${process.pid}\n`);
    },
    { connection, concurrency: 100, removeOnComplete: { count: 0 }, removeOnFail: { count: 0 } },
  );
  worker.on('error', (error) => console.error(error));
} else {
  const queue = new Queue('bench', { connection });
  const [n, due_us] = [Number(number), Number(due)];
  for (let i = 0; i < n; i += 500) {
    const timestamp = Date.now();
    const opts = { timestamp, delay: due_us / 1000 - timestamp, removeOnComplete: true, attempts: 1 };
    const jobs = Array.from({ length: Math.min(500, n - i) }, (_, j) => ({
      name: 'mark', data: { key: String(i + j), due_us }, opts,
    }));
    await queue.addBulk(jobs);
  }
  await queue.close();
  await connection.quit();
}
