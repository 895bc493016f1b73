import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { pageSizeBytes } from '../linux/mount.ts';
import type { Mount } from './mount.ts';

/** The plan of an overlay mount. */
export type OverlayMount = Extract<Mount, { readonly type: 'overlay' }>;

/** The directories of one overlay, in one spelling. */
interface Spelling {
  readonly lower: readonly ByteString[];
  readonly upper?: ByteString;
  readonly work?: ByteString;
}

/** What mount(2) is told, and the working directory that its names are relative to (absent: they are absolute). */
export interface OverlayRoute {
  readonly data: ByteString;
  readonly base?: ByteString;
}

/**
 * The data of mount(2) for `plan`, in the order that Docker writes it: index, userxattr, lowerdir, upperdir, workdir,
 * label. `spelling` replaces the plan's own directories.
 */
export function overlayData(plan: OverlayMount, spelling: Spelling = plan): ByteString {
  const parts: string[] = [];
  if (plan.index !== undefined) parts.push(`index=${plan.index}`);
  if (plan.userxattr) parts.push('userxattr');
  parts.push(`lowerdir=${spelling.lower.map(escapeLower).join(':')}`);
  if (spelling.upper !== undefined) parts.push(`upperdir=${escapeComma(spelling.upper)}`);
  if (spelling.work !== undefined) parts.push(`workdir=${escapeComma(spelling.work)}`);
  if (plan.label !== undefined) parts.push(`context="${checkLabel(plan.label)}"`);
  return parts.join(',') as ByteString;
}

/**
 * The shortest way that fits in one page with its NUL (the most that mount(2) reads): absolute names, else names
 * relative to `plan.short.base`. Nothing fits: failed-precondition with the sizes.
 */
export function overlayRoute(plan: OverlayMount, pageBytes: number = pageSizeBytes()): OverlayRoute {
  const data = overlayData(plan);
  if (data.length < pageBytes) return { data };
  const room = `one page holds ${pageBytes - 1}`;
  const what = `Cannot mount an overlay of ${plan.lower.length} lower directories: its options are ${data.length} bytes`;
  const remedy = 'Use fewer layers, or shorter paths and ids';
  if (plan.short === undefined)
    throw new StorageError('failed-precondition', `${what}, ${room}. ${remedy}`, { remedy });
  const short = overlayData(plan, plan.short);
  if (short.length < pageBytes) return { data: short, base: plan.short.base };
  throw new StorageError(
    'failed-precondition',
    `${what}, ${short.length} with paths relative to ${quote(plan.short.base)}; ${room}. ${remedy}`,
    { remedy },
  );
}

/** In every directory of the options, as ovl_next_opt and ovl_unescape undo it (fs/overlayfs/params.c). */
function escapeComma(path: ByteString): string {
  return path.replace(/[\\,]/g, '\\$&');
}

function escapeLower(path: ByteString): string {
  return path.replace(/[\\,:]/g, '\\$&');
}

// A quote would end the value, and what follows would be options of its own.
function checkLabel(label: string): string {
  if (/^[^"\\\0]+$/.test(label)) return label;
  throw new StorageError(
    'invalid-argument',
    `Cannot mount with the label ${quote(label as ByteString)}: a label is not empty and holds no quote, backslash or NUL`,
  );
}

/**
 * The plan that `data` spells: overlayData's inverse (what is relative stays so). An option that it does not know is
 * `unsupported`, never a guess.
 */
export function parseOverlayData(data: ByteString): OverlayMount {
  let plan: OverlayMount = { type: 'overlay', lower: [], userxattr: false };
  for (const option of splitOptions(data)) {
    const equals = option.indexOf('=');
    const key = equals < 0 ? option : option.slice(0, equals);
    const value = equals < 0 ? undefined : (option.slice(equals + 1) as ByteString);
    plan = { ...plan, ...parseOption(key, value, option) };
  }
  if (plan.lower.length === 0) throw unknown('lowerdir', 'it is missing');
  return plan;
}

function parseOption(key: string, value: ByteString | undefined, option: string): Partial<OverlayMount> {
  if (key === 'userxattr' && value === undefined) return { userxattr: true };
  if (value !== undefined && value !== '') {
    if (option === 'index=on') return { index: 'on' };
    if (option === 'index=off') return { index: 'off' };
    if (key === 'lowerdir') return { lower: splitLowers(value) };
    if (key === 'upperdir') return { upper: unescapePath(value) };
    if (key === 'workdir') return { work: unescapePath(value) };
    if (key === 'context') return { label: value.replace(/^"(.*)"$/s, '$1') };
  }
  throw unknown(option, 'this version does not know it');
}

function unknown(option: string, why: string): StorageError {
  return new StorageError('unsupported', `Cannot read the overlay option ${quote(option as ByteString)}: ${why}`);
}

function splitOptions(data: ByteString): string[] {
  return data.match(/(?:\\.|context="[^"]*"|[^,\\])+/gs) ?? [];
}

function splitLowers(value: ByteString): ByteString[] {
  const lowers: string[] = [''];
  for (const [token] of value.matchAll(/\\.|./gs)) {
    if (token === ':') lowers.push('');
    else lowers[lowers.length - 1] += token;
  }
  // An empty name is `::`, which marks data-only lowers (Documentation/filesystems/overlayfs.rst, "Data-only lower layers").
  if (lowers.includes('')) throw unknown(`lowerdir=${value}`, 'this version does not know data-only lowers');
  return lowers.map((lower) => unescapePath(lower as ByteString));
}

function unescapePath(value: ByteString): ByteString {
  return value.replace(/\\(.)/gs, '$1') as ByteString;
}
