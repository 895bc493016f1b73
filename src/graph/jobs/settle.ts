import type { ByteString } from '../../base/bytes.ts';
import type { ErrorRecord } from '../../base/errors.ts';
import { toHost } from '../../base/id-map.ts';
import { type JobContext, jobError } from '../../base/pool.ts';
import { settle as settleLayer } from '../../diff/fix-ups.ts';
import { LayerTree } from '../../diff/layer-tree.ts';
import { Notes } from '../../diff/notes.ts';
import { decodeUnsettled, type Unsettled } from '../../diff/unsettled.ts';
import { LowerView } from '../../fs/lower-view.ts';
import { treeSizeBytes } from '../../fs/usage.ts';
import { marksOf } from '../../fs/whiteouts.ts';
import { viaWorkingDirectory } from '../../fs/xattrs.ts';
import type { Jail } from './jail.ts';
import type { UnpackRequest } from './unpacking.ts';

const ROOT = '/' as ByteString;

/** Layers that stack, bottom first. */
export interface SettleRequest extends Pick<UnpackRequest, 'ids' | 'style'> {
  /** The trees below the first one, top first, all settled. */
  readonly lowers: readonly ByteString[];
  readonly lowerStyle: 'overlay' | 'none';
  readonly layers: readonly UnsettledLayer[];
}

interface UnsettledLayer {
  readonly root: ByteString;
  readonly unsettled: Uint8Array | Unsettled;
  /** What was known of it when it was unpacked. */
  readonly sizeBytes?: number;
}

interface SettledLayer {
  /** Sum of the sizes of the layer's non-directories, links once. */
  readonly sizeBytes: number;
  readonly notes: readonly string[];
}

export interface SettleAnswer {
  /** Those that are done; where not all are, the next one failed. */
  readonly settled: readonly SettledLayer[];
  readonly failure?: ErrorRecord;
}

/** Job: does what needs the layers below, jailed in each layer after the other. */
export function settle(request: SettleRequest, context: JobContext, jail: Jail): SettleAnswer {
  const settled: SettledLayer[] = [];
  const lowers = [...request.lowers];
  try {
    for (const layer of request.layers) {
      settled.push(settleOne(request, layer, lowers, context, jail));
      lowers.unshift(layer.root);
    }
    return { settled };
  } catch (error) {
    return { settled, failure: jobError(error) };
  }
}

function settleOne(
  { ids, style, lowerStyle }: SettleRequest,
  { root, unsettled, sizeBytes }: UnsettledLayer,
  lowers: readonly ByteString[],
  context: JobContext,
  jail: Jail,
): SettledLayer {
  using below = lowers.length === 0 ? undefined : new LowerView(lowers, lowerStyle, viaWorkingDirectory);
  const { directories, placeholders } = unsettled instanceof Uint8Array ? decodeUnsettled(unsettled) : unsettled;
  const notes = new Notes();
  const check = (): void => context.check();
  const rootPair = { uid: toHost(0, ids.uid, 'user'), gid: toHost(0, ids.gid, 'group') };
  jail.inside(root, [], () => {
    using tree = new LayerTree(ROOT, marksOf(style), directories);
    settleLayer({ tree, placeholders, rootPair, notes, check }, below);
  });
  return { sizeBytes: sizeBytes ?? treeSizeBytes(root, check), notes: notes.list() };
}
