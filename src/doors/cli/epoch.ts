import { UsageError } from './parse.ts';

/** SOURCE_DATE_EPOCH in seconds, if it is set (reproducible-builds.org/specs/source-date-epoch). */
export function sourceDateEpoch(env: NodeJS.ProcessEnv): number | undefined {
  const text = env['SOURCE_DATE_EPOCH'];
  if (text === undefined || text === '') return undefined;
  // 253402300799 is the last second that RFC 3339 can say.
  if (!/^[0-9]{1,12}$/.test(text) || Number(text) > 253_402_300_799) {
    throw new UsageError('SOURCE_DATE_EPOCH is not a number of seconds since 1970');
  }
  return Number(text);
}

/** RFC 3339 in UTC, whole seconds. */
export function rfc3339(epochSeconds: number): string {
  return new Date(epochSeconds * 1000).toISOString().replace('.000Z', 'Z');
}
