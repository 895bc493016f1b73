import { beside } from './libc.ts';

/**
 * Has another thread find out how fast the processor counts cycles. V8's locks (Abseil's) ask for it when a thread waits
 * for one for the first time, and where the kernel does not tell (`tsc_freq_khz`), that thread sleeps 3 ms over it: in
 * two of five commits that was the main thread. Nothing where Node has no such function.
 */
export function countCyclesBeside(): void {
  try {
    beside('double _ZN4absl13base_internal19NominalCPUFrequencyEv()').catch(() => {});
  } catch {
    // Another build of Node.
  }
}
