// What the event loop waits while a store works, in a process of its own: `node measure-delay.ts ROOT ARCHIVE THREADS`.
// Prints, for each step, the 99th percentile and the greatest delay in milliseconds as JSON. The timer itself takes one.
import { rmSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { openStore } from '../../src/index.ts';

const [root = '', archive = '', threads = ''] = process.argv.slice(2);
const steps: Record<string, { readonly p99Ms: number; readonly maxMs: number }> = {};

async function measured<T>(step: string, work: () => Promise<T>): Promise<T> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const result = await work();
  delay.disable();
  steps[step] = { p99Ms: delay.percentile(99) / 1e6, maxMs: delay.max / 1e6 };
  return result;
}

async function drain(items: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of items);
}

await using store = await openStore({ root, threads: Number(threads) });
const [image] = await measured('load', () => store.images.load(archive));
await using work = await store.layers.create(image as NonNullable<typeof image>);
{
  await using mounted = await work.mount();
  rmSync(`${mounted.path}/s1-0`, { recursive: true });
}
await measured('changes', () => drain(work.changes()));
await measured('diff', () => drain(work.diff()));
const next = await measured('commit', () => work.commit('next:1'));
await measured('save', () => drain(store.images.save([next], { format: 'oci' })));
for (const compress of ['gzip', 'zstd'] as const) {
  await measured(`save with ${compress}`, () => drain(store.images.save([next], { compress })));
}
console.log(JSON.stringify(steps));
