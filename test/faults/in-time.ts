/** How soon whatever ends must have ended. */
const WITHIN_MS = 1000;

/** All was right, but for the time that it took. */
class Late extends Error {}

/** Throws where it took too long; `inTime` catches that. */
export function checkSoon(tookMs: number, what = ''): void {
  if (!(tookMs < WITHIN_MS)) throw new Late(`${what} took ${tookMs} ms`.trim());
}

/** Others may have kept the processors busy meanwhile: what only took too long is done again, twice at most. */
export async function inTime(task: () => Promise<void>, tries = 3): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (!(error instanceof Late) || tries === 1) throw error;
    await inTime(task, tries - 1);
  }
}
