import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { Mount } from './mount.ts';
import { type OverlayMount, parseOverlayOptions } from './overlay-options.ts';

/** A mount as containerd writes it: what a runtime gives to mount(8). */
export interface RawMount {
  readonly type: string;
  readonly source: ByteString;
  readonly options: readonly ByteString[];
}

/** As containerd's snapshotter names it. */
const FUSE_OVERLAY = 'fuse3.fuse-overlayfs';
/** What to do about layers that fuse-overlayfs wrote. */
export const FUSE_REMEDY = 'Mount both sides with fuse-overlayfs, and compare those trees (as binds, with --walk)';

/** Flags of mount(8) for any filesystem that change nothing of what is read. */
const FLAGS: ReadonlySet<string> = new Set(
  'ro rw bind rbind async sync atime noatime relatime norelatime strictatime diratime nodiratime dev nodev exec noexec suid nosuid private rprivate slave rslave shared rshared'.split(
    ' ',
  ),
);

/**
 * The plan by which the kernel shows what a raw mount shows. `unsupported`: neither a bind nor an overlay, an option that
 * nobody here knows, or an overlay of fuse-overlayfs, whose marks the kernel does not read.
 */
export function fromRaw(raw: RawMount): Mount {
  if (raw.type === 'bind')
    return { type: 'bind', source: raw.source, readonly: raw.options.includes('ro' as ByteString) };
  if (raw.type === FUSE_OVERLAY) {
    throw new StorageError(
      'unsupported',
      `Cannot read a mount of type ${quote(raw.type as ByteString)}: the kernel reads its layers in another way. ${FUSE_REMEDY}`,
      { remedy: FUSE_REMEDY },
    );
  }
  if (isOverlay(raw)) return parseOverlay(raw);
  throw refused(`a mount of type ${quote(raw.type as ByteString)} is neither a bind nor an overlay`);
}

function isOverlay({ type }: RawMount): boolean {
  return type === 'overlay' || type === FUSE_OVERLAY;
}

function parseOverlay({ options }: RawMount): OverlayMount {
  return parseOverlayOptions(options.filter((option) => !FLAGS.has(option)));
}

/**
 * The directories of an overlay, bottom first, the upper last. Data-only directories are no layers: they show nothing.
 * `unsupported`: an option that is not known.
 */
export function overlayLayers(mount: RawMount): readonly ByteString[] {
  const { lower, upper } = parseOverlay(mount);
  return [...lower.toReversed(), ...(upper === undefined ? [] : [upper])];
}

/**
 * The directory that holds what `upper` has more than `lower`, found by the directories that both name; paths compare
 * as strings. `unsupported`, with the rule that failed: then only comparing both trees finds the changes. Rules as in
 * BuildKit's differ (util/overlay, GetUpperdir).
 */
export function upperDirectory(lower: readonly RawMount[], upper: readonly RawMount[]): ByteString {
  const [above] = upper;
  if (above === undefined || upper.length > 1 || lower.length > 1) {
    throw refused(
      `${lower.length} lower and ${upper.length} upper mounts; one upper and at most one lower can be read`,
    );
  }
  const [below] = lower;
  if (below === undefined) {
    if (above.type !== 'bind')
      throw refused(`without a lower the upper is a bind, not ${quote(above.type as ByteString)}`);
    if (above.source === '') throw refused('the bind has no source');
    return above.source;
  }
  const common = layersOf(below);
  if (!isOverlay(above)) throw refused(`the upper is an overlay, not ${quote(above.type as ByteString)}`);
  const layers = overlayLayers(above);
  if (layers.length !== common.length + 1) {
    throw refused(`the upper has ${layers.length} layers and the lower ${common.length}; one more is what can be read`);
  }
  const other = common.findIndex((layer, i) => layer !== layers[i]);
  if (other >= 0) {
    throw refused(
      `layer ${other + 1} from below is ${quote(layers[other] as ByteString)}, not ${quote(common[other] as ByteString)}`,
    );
  }
  const option = differentReading(below, above);
  if (option !== undefined) throw refused(`the lower and the upper are not mounted with the same ${option}`);
  const top = layers.at(-1) as ByteString;
  if (top === '') throw refused('the upper directory has no name');
  return top;
}

/** The option by which the two read their layers differently: then what one shows is no base of the other. */
function differentReading(below: RawMount, above: RawMount): string | undefined {
  if (below.type === 'bind') return undefined;
  const [one, other] = [parseOverlay(below), parseOverlay(above)];
  if (one.userxattr !== other.userxattr) return 'userxattr';
  if (one.metacopy !== other.metacopy) return 'metacopy';
  const follows = ({ redirect }: OverlayMount): boolean => redirect !== 'nofollow';
  if (follows(one) !== follows(other)) return 'redirect_dir';
  return `${one.dataOnly}` === `${other.dataOnly}` ? undefined : 'data-only directories';
}

function layersOf(mount: RawMount): readonly ByteString[] {
  if (mount.type === 'bind') return [mount.source];
  if (isOverlay(mount)) return overlayLayers(mount);
  throw refused(`a lower of type ${quote(mount.type as ByteString)} does not say its layers`);
}

/** What shows the same tree and writes nothing, not even `work/work`: the upper is one more lower. */
export function readingPlan(plan: Mount): Mount {
  if (plan.type === 'bind') return { ...plan, readonly: true };
  const { upper, work: _, index, more, short: __, ...rest } = plan;
  const lower = upper === undefined ? plan.lower : [upper, ...plan.lower];
  const [only] = lower;
  // The kernel takes no overlay of one lower. What it would show of its marks, the differ knows by itself.
  if (lower.length === 1 && plan.dataOnly === undefined)
    return { type: 'bind', source: only as ByteString, readonly: true };
  const kept = (more ?? []).filter((option) => !/^(volatile|uuid=|nfs_export=)/.test(option));
  return {
    ...rest,
    lower,
    ...(index === undefined ? {} : { index: 'off' }),
    ...(kept.length === 0 ? {} : { more: kept }),
    ...shortened(lower, plan.dataOnly ?? []),
  };
}

/** Names relative to the directory that all lie below: options of a mount have a page, and a snapshotter's paths are long. */
function shortened(lower: readonly ByteString[], dataOnly: readonly ByteString[]): Pick<OverlayMount, 'short'> {
  const all = [...lower, ...dataOnly];
  if (!all.every((path) => path.startsWith('/'))) return {};
  const [first = [], ...others] = all.map((path) => path.split('/').slice(0, -1));
  let depth = first.length;
  for (const other of others) {
    let same = 0;
    while (same < depth && other[same] === first[same]) same++;
    depth = same;
  }
  const base = first.slice(0, depth).join('/');
  if (base === '') return {};
  const below = (path: ByteString): ByteString => path.slice(base.length + 1) as ByteString;
  const names = dataOnly.length === 0 ? {} : { dataOnly: dataOnly.map(below) };
  return { short: { base: base as ByteString, lower: lower.map(below), ...names } };
}

function refused(why: string): StorageError {
  return new StorageError('unsupported', `Cannot tell the upper directory: ${why}`, {
    remedy: 'Compare the two trees instead',
  });
}
