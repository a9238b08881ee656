// BullMQ: `work` starts one process of 100 at once; `register N due_us` adds N delayed jobs, 500 a call;
// `serve SIZE` registers as tests/bench/casting.py says, SIZE jobs a call.
import { openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

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
} else if (what === 'serve') {
  const queue = new Queue('bench', { connection });
  const [size, base] = [Number(number), Date.now() + 3_600_000];
  let next = 0;
  const job = () => {
    const due_us = (base + ((next * 7919) % 3_600_000)) * 1000;
    const timestamp = Date.now();
    const opts = { timestamp, delay: due_us / 1000 - timestamp, removeOnComplete: true, attempts: 1 };
    return { name: 'mark', data: { key: String(next++), due_us }, opts };
  };
  const call = async () => {
    const jobs = Array.from({ length: size }, job);
    if (size === 1) await queue.add(jobs[0].name, jobs[0].data, jobs[0].opts);
    else await queue.addBulk(jobs);
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const [concurrency, seconds] = line.split(' ').map(Number);
    const all = (one) => Promise.all(Array.from({ length: concurrency }, one));
    await all(call);
    const [begun, us] = [performance.now(), []];
    await all(async () => {
      while (performance.now() - begun < seconds * 1000) {
        const since = performance.now();
        await call();
        us.push(Math.round((performance.now() - since) * 1000));
      }
    });
    const spent = (performance.now() - begun) / 1000;
    console.log(JSON.stringify({ tasks: us.length * size, seconds: spent, us, warm: size * concurrency }));
  }
  await queue.close();
  await connection.quit();
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
