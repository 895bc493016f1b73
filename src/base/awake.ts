/** Awaits `work` and holds the process meanwhile: neither waiting on memory (Atomics.waitAsync) nor an unref'd thread does. */
export async function awake<T>(work: Promise<T>): Promise<T> {
  const timer = setInterval(() => {}, 0x7fff_ffff);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}
