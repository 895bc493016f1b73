import type { ByteString } from '../../base/bytes.ts';
import type { IdMaps } from '../../base/id-map.ts';
import type { JobContext } from '../../base/pool.ts';
import { TreeAudit, type TreeFault } from '../../diff/audit.ts';
import type { WhiteoutStyle } from '../../fs/whiteouts.ts';
import { TarLexer } from '../../tar/lexer.ts';
import { SplitReader } from '../../tar/split.ts';
import { feedRecord } from './replay.ts';

export interface AuditRequest {
  /** The split record. */
  readonly record: ByteString;
  /** The layer's own tree. */
  readonly root: ByteString;
  readonly ids: IdMaps;
  /** The trees below, top first. */
  readonly lowers: readonly ByteString[];
  readonly whiteouts: WhiteoutStyle;
}

/** Where a layer's tree is not as its record says. */
export interface AuditAnswer {
  readonly faults: readonly TreeFault[];
  /** How many more there are. */
  readonly more: number;
}

/** Job: compares all but the contents of a layer's tree with its record. */
export function audit(request: AuditRequest, context: JobContext): AuditAnswer {
  using tree = new TreeAudit(request.root, request);
  const lexer = new TarLexer(tree);
  const nothing = Buffer.alloc(256 * 1024); // in place of contents, which nobody looks at
  const split = new SplitReader({
    onRaw(bytes) {
      context.check();
      lexer.write(bytes);
    },
    onFile(_name, payloadBytes) {
      for (let left = payloadBytes; left > 0; left -= nothing.length) lexer.write(nothing.subarray(0, left));
    },
    onEnd() {
      lexer.finish();
    },
  });
  feedRecord(request.record, split);
  return tree.finish();
}
