import { type ByteString, quote } from '../../base/bytes.ts';
import { UsageError } from './parse.ts';

const KINDS = ['none', 'gzip', 'zstd'] as const;

/** The option of commands that write layers. */
export const COMPRESS = {
  kind: 'value',
  value: 'KIND',
  help: 'compress layers with gzip or zstd (default: none)',
} as const;

/** What was asked for; undefined: none. */
export function compressionGiven(given: ByteString | undefined): 'gzip' | 'zstd' | undefined {
  if (given === undefined) return undefined;
  const found = KINDS.find((one) => one === given);
  if (found === undefined) throw new UsageError(`compression ${quote(given)} is none of ${KINDS.join(', ')}`);
  return found === 'none' ? undefined : found;
}
