import { type ByteString, fromText, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { DriverName } from '../base/values.ts';

/** Drivers whose options Docker may send along with ours: by their prefixes. */
const PREFIXES: ReadonlySet<string> = new Set([
  'overlay2',
  'vfs',
  'fuse-overlayfs',
  'aufs',
  'overlay',
  'btrfs',
  'zfs',
  'dm',
]);

const UNITS = 'kmgtp';

export interface DriverOptions {
  /** Bytes that a writable layer may take unless it says otherwise; 0: no limit. */
  readonly sizeBytes: number;
}

/** How an option's value is read into the options. */
type Reader = (value: string) => Partial<DriverOptions> | undefined;

const size: Reader = (value) => {
  const sizeBytes = parseSize(value);
  return sizeBytes === undefined ? undefined : { sizeBytes };
};
// strconv.ParseBool, which Docker reads it with; kernels that it once overrode the check of are gone.
const accepted: Reader = (value) => (/^(1|0|t|f|true|false)$/i.test(value) ? {} : undefined);

const KNOWN: Readonly<Record<DriverName, Readonly<Record<string, Reader>>>> = {
  overlay2: { 'overlay2.size': size, 'overlay2.override_kernel_check': accepted },
  vfs: { size, 'vfs.size': size },
};

/** Options without those of other drivers' prefixes: what `driver` is to read. */
export function ownOptions(driver: DriverName, options: readonly string[]): string[] {
  return options.filter((option) => {
    const prefix = /^([^.=]+)\./.exec(option)?.[1]?.toLowerCase();
    return prefix === undefined || prefix === driver || !PREFIXES.has(prefix);
  });
}

/** Reads `key=value` options; keys are case-insensitive, the last of a key wins. Errors name driver and option. */
export function parseDriverOptions(driver: DriverName, options: readonly string[]): DriverOptions {
  let parsed: DriverOptions = { sizeBytes: 0 };
  for (const option of options) {
    const equals = option.indexOf('=');
    if (equals < 1) throw refused(driver, option, 'it has not the form key=value');
    const reader = lookUp(KNOWN[driver], option.slice(0, equals).trim().toLowerCase());
    if (reader === undefined) throw refused(driver, option, 'this driver has no such option');
    const read = reader(option.slice(equals + 1).trim());
    if (read === undefined) throw refused(driver, option, 'the value cannot be read');
    parsed = { ...parsed, ...read };
  }
  return parsed;
}

/**
 * Reads the `key=value` storage options of one layer: `size`, and only for a writable one. Answers its bytes, or
 * undefined where it says nothing.
 */
export function parseLayerSettings(
  driver: DriverName,
  settings: Readonly<Record<string, string>>,
  writable: boolean,
): number | undefined {
  let sizeBytes: number | undefined;
  for (const [key, value] of Object.entries(settings)) {
    const option = `${key}=${value}`;
    if (key.toLowerCase() !== 'size') throw refused(driver, option, 'layers have no such option');
    if (!writable) throw refused(driver, option, 'only a writable layer can have a size');
    sizeBytes = parseSize(value);
    if (sizeBytes === undefined) throw refused(driver, option, 'the value cannot be read');
  }
  return sizeBytes;
}

/** Refuses a limit that nothing enforces yet: quotas are not part of this version. */
export function refuseLimit(driver: DriverName, sizeBytes: number, backing: string): void {
  if (sizeBytes === 0) return;
  const remedy = 'Leave size out, or say size=0';
  throw new StorageError(
    'unsupported',
    `Cannot limit a layer of ${driver} to ${sizeBytes} bytes: that needs project quotas, which this version does not set ` +
      `(the filesystem is ${backing}). ${remedy}`,
    { remedy },
  );
}

/** `10G`, `1.5g`, `512 m`, `10GiB`, `0`: bytes in units of 1024, or undefined where the text is no size. */
export function parseSize(text: string): number | undefined {
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?(?:([kmgtp])i?)?b?$/i.exec(text.trim()) ?? [];
  if (number === undefined) return undefined;
  const sizeBytes = Math.floor(
    Number(number) * 1024 ** (unit === undefined ? 0 : UNITS.indexOf(unit.toLowerCase()) + 1),
  );
  return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined;
}

function lookUp(table: Readonly<Record<string, Reader>>, key: string): Reader | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}

function refused(driver: DriverName, option: string, why: string): StorageError {
  return new StorageError('invalid-argument', `Cannot use the ${driver} option ${text(option)}: ${why}`);
}

function text(option: string): string {
  return quote(fromText(option) as ByteString);
}
