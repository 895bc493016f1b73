/** Milliseconds on a clock that only goes forward. (`performance.now()` takes a command's first caller 0.8 ms to load.) */
export function nowMs(): number {
  const [seconds, ns] = process.hrtime();
  return seconds * 1000 + ns / 1_000_000;
}

/** Lets others of this thread be heard. (`node:timers/promises` has it too, and takes a command 0.6 ms to load.) */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
