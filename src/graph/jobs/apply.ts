import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingReader } from '../../base/ring.ts';
import type { InflateLimits } from '../../codec/inflate.ts';
import { CODECS, type Codec } from '../../codec/warm.ts';
import { encodeUnsettled } from '../../diff/unsettled.ts';
import { sha256 } from '../../linux/sha256.ts';
import { TarLexer } from '../../tar/lexer.ts';
import type { TarSink } from '../../tar/types.ts';
import { takeDigest } from './hash.ts';
import { type FileRange, type InflateAnswer, inflateHashed } from './inflate.ts';
import type { Jail } from './jail.ts';
import { type UnpackAnswer, Unpacking, type UnpackRequest } from './unpacking.ts';

/** How much is inflated at a time: no more than a small layer has. */
const SLOT_BYTES_MIN = 16 * 1024;
const SLOT_BYTES_MAX = 256 * 1024;

export interface ApplyRequest extends UnpackRequest {
  readonly from:
    | {
        readonly kind: 'ring';
        readonly ring: RingMemory;
        /** Where another thread puts the digest; absent: hashed here. */
        readonly tarSha256?: SharedArrayBuffer;
      }
    | { readonly kind: 'file'; readonly range: FileRange; readonly limits: Partial<InflateLimits> };
}

export interface ApplyAnswer extends UnpackAnswer {
  /** Of the blob, where this thread inflated it itself. */
  readonly inflated?: InflateAnswer;
}

/** Job: unpacks one layer, jailed in it, and writes its split record. */
export function apply(request: ApplyRequest, context: JobContext, jail: Jail): ApplyAnswer {
  using unpacking = Unpacking.begin(request, context, jail);
  const { tarBytes, tarSha256, inflated, unsettled } = jail.inside(request.root, codecsOf(request), () => {
    const ended = feed(request, unpacking, context);
    return { ...ended, unsettled: unpacking.finish(ended.tarBytes, ended.tarSha256) };
  });
  const answer = unpacking.answer(encodeUnsettled(unsettled), tarBytes, tarSha256);
  return inflated === undefined ? answer : { ...answer, inflated };
}

function codecsOf({ from, record }: ApplyRequest): readonly Codec[] {
  if (from.kind === 'file') return CODECS;
  return record === undefined ? [] : ['zstd'];
}

interface Ended {
  readonly tarBytes: number;
  readonly tarSha256: Buffer;
  readonly inflated?: InflateAnswer;
}

/** Gives all bytes of the tar to the lexer. */
function feed(request: ApplyRequest, sink: TarSink, context: JobContext): Ended {
  const lexer = new TarLexer(sink);
  const { from } = request;
  if (from.kind === 'file') {
    const slot = Buffer.allocUnsafe(Math.min(SLOT_BYTES_MAX, Math.max(SLOT_BYTES_MIN, from.range.length * 4)));
    const {
      tarSha256,
      diffId: _,
      ...inflated
    } = inflateHashed(
      from.range,
      { reserve: () => slot, commit: (n) => lexer.write(slot.subarray(0, n)) },
      from.limits,
      context,
    );
    lexer.finish();
    return { tarBytes: inflated.tarBytes, tarSha256, inflated };
  }
  const reader = new RingReader(from.ring);
  const hash = from.tarSha256 === undefined ? sha256() : undefined;
  let tarBytes = 0;
  for (let view = reader.next(); view !== undefined; view = reader.next()) {
    context.check();
    hash?.update(view);
    lexer.write(view);
    tarBytes += view.length;
    context.done(tarBytes);
    reader.release();
  }
  lexer.finish();
  return { tarBytes, tarSha256: hash?.digest() ?? takeDigest(from.tarSha256 as SharedArrayBuffer, from.ring) };
}
