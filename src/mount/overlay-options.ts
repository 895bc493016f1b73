import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { Mount } from './mount.ts';

/** The plan of an overlay mount. */
export type OverlayMount = Extract<Mount, { readonly type: 'overlay' }>;

/** The directories of one overlay, in one spelling. */
interface Spelling {
  readonly lower: readonly ByteString[];
  readonly upper?: ByteString;
  readonly work?: ByteString;
  readonly dataOnly?: readonly ByteString[];
}

/** What mount(2) is told, and the working directory that its names are relative to (absent: they are absolute). */
export interface OverlayRoute {
  readonly data: ByteString;
  readonly base?: ByteString;
}

/**
 * The data of mount(2) for `plan`, in the order that Docker writes it: index, userxattr, (what Docker never writes,)
 * lowerdir, upperdir, workdir, label. `spelling` replaces the plan's own directories.
 */
export function overlayData(plan: OverlayMount, spelling: Spelling = plan): ByteString {
  const parts: string[] = [];
  if (plan.index !== undefined) parts.push(`index=${plan.index}`);
  if (plan.userxattr) parts.push('userxattr');
  if (plan.redirect !== undefined) parts.push(`redirect_dir=${plan.redirect}`);
  if (plan.metacopy !== undefined) parts.push(`metacopy=${plan.metacopy}`);
  parts.push(...(plan.more ?? []));
  const dataOnly = (spelling.dataOnly ?? plan.dataOnly ?? []).map((path) => `::${escapeLower(path)}`);
  parts.push(`lowerdir=${spelling.lower.map(escapeLower).join(':')}${dataOnly.join('')}`);
  if (spelling.upper !== undefined) parts.push(`upperdir=${escapeComma(spelling.upper)}`);
  if (spelling.work !== undefined) parts.push(`workdir=${escapeComma(spelling.work)}`);
  if (plan.label !== undefined) parts.push(`context="${checkLabel(plan.label)}"`);
  return parts.join(',') as ByteString;
}

/**
 * The shortest way that fits in one page with its NUL (the most that mount(2) reads): absolute names, else names
 * relative to `plan.short.base`. Nothing fits: failed-precondition with the sizes.
 */
export function overlayRoute(plan: OverlayMount, pageBytes: number): OverlayRoute {
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
  return parseOverlayOptions(splitOptions(data));
}

/** As `parseOverlayData`, of options that are apart already. */
export function parseOverlayOptions(options: readonly ByteString[]): OverlayMount {
  let plan: OverlayMount = { type: 'overlay', lower: [], userxattr: false };
  for (const option of options) plan = { ...plan, ...parseOption(plan, option) };
  if (plan.lower.length === 0) throw unknown('lowerdir', 'it is missing');
  return plan;
}

type Values = readonly string[];
const ON_OFF: Values = ['on', 'off'];
/** Options that name no directory and are carried as they are (Documentation/filesystems/overlayfs.rst of 6.18). */
const CARRIED: Readonly<Record<string, Values | 'flag'>> = {
  default_permissions: 'flag',
  volatile: 'flag',
  override_creds: 'flag',
  nooverride_creds: 'flag',
  uuid: ['on', 'off', 'null', 'auto'],
  nfs_export: ON_OFF,
  xino: ['on', 'off', 'auto'],
  verity: ['on', 'off', 'require'],
};

function parseOption(plan: OverlayMount, option: ByteString): Partial<OverlayMount> {
  const equals = option.indexOf('=');
  const key = equals < 0 ? option : option.slice(0, equals);
  const value = equals < 0 ? undefined : (option.slice(equals + 1) as ByteString);
  if (value === undefined) {
    if (key === 'userxattr') return { userxattr: true };
    if (Object.hasOwn(CARRIED, key) && CARRIED[key] === 'flag') return { more: [...(plan.more ?? []), option] };
    throw unknown(option, 'this version does not know it');
  }
  if (value === '') throw unknown(option, 'it is empty');
  switch (key) {
    case 'index':
      return { index: oneOf(option, value, ON_OFF) as 'on' };
    case 'redirect_dir':
      return { redirect: oneOf(option, value, ['on', 'off', 'follow', 'nofollow']) as 'on' };
    case 'metacopy':
      return { metacopy: oneOf(option, value, ON_OFF) as 'on' };
    case 'lowerdir':
      return splitLowers(value);
    // By fsconfig, one by one and with nothing escaped (kernel 6.5 or newer).
    case 'lowerdir+':
      return { lower: [...plan.lower, value] };
    case 'datadir+':
      return { dataOnly: [...(plan.dataOnly ?? []), value] };
    case 'upperdir':
      return { upper: unescapePath(value) };
    case 'workdir':
      return { work: unescapePath(value) };
    case 'context':
      return { label: value.replace(/^"(.*)"$/s, '$1') };
  }
  const values = Object.hasOwn(CARRIED, key) ? CARRIED[key] : undefined;
  if (values === undefined || values === 'flag') throw unknown(option, 'this version does not know it');
  oneOf(option, value, values);
  return { more: [...(plan.more ?? []), option] };
}

function oneOf(option: ByteString, value: string, values: Values): string {
  if (values.includes(value)) return value;
  throw unknown(option, `its values are ${values.join(', ')}`);
}

function unknown(option: string, why: string): StorageError {
  return new StorageError('unsupported', `Cannot read the overlay option ${quote(option as ByteString)}: ${why}`);
}

function splitOptions(data: ByteString): ByteString[] {
  return (data.match(/(?:\\.|context="[^"]*"|[^,\\])+/gs) ?? []) as string[] as ByteString[];
}

/** `::` begins the data-only ones (overlayfs.rst, "Data-only lower layers"). */
function splitLowers(value: ByteString): Partial<OverlayMount> {
  const names: string[] = [''];
  for (const [token] of value.matchAll(/\\.|./gs)) {
    if (token === ':') names.push('');
    else names[names.length - 1] += token;
  }
  const unescaped = names.map((name) => unescapePath(name as ByteString));
  const first = unescaped.indexOf('' as ByteString);
  if (first < 0) return { lower: unescaped };
  const rest = unescaped.slice(first);
  // From the first `::` on every name has one before it.
  if (first === 0 || rest.length % 2 === 1 || rest.some((name, i) => (name === '') !== (i % 2 === 0))) {
    throw unknown(`lowerdir=${value}`, 'an empty name is only what "::" makes, before each data-only directory');
  }
  return { lower: unescaped.slice(0, first), dataOnly: rest.filter((name) => name !== '') };
}

function unescapePath(value: ByteString): ByteString {
  return value.replace(/\\(.)/gs, '$1') as ByteString;
}
