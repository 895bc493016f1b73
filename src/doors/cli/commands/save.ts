import { fromText, quote } from '../../../base/bytes.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { COMPRESS, compressionGiven } from '../compress.ts';
import { openStoreOf, say } from '../context.ts';
import { checkDestination, writeWith } from '../destination.ts';
import { withTextPath } from '../directory.ts';
import { sourceDateEpoch } from '../epoch.ts';
import { UsageError } from '../parse.ts';
import { withProgress } from '../progress.ts';

const FORMATS = ['oci', 'oci-dir', 'docker'] as const;

export const command: Command = defineCommand({
  usage: 'REF… [-o FILE|-] [--format oci|oci-dir|docker] [--compress gzip|zstd]',
  operands: [1, Number.POSITIVE_INFINITY],
  options: {
    output: { kind: 'value', short: 'o', value: 'FILE|-', help: 'where to (default: -, which must not be a terminal)' },
    format: {
      kind: 'value',
      value: 'FORMAT',
      help: 'oci (a tar, default), oci-dir (a directory) or docker (an archive)',
    },
    compress: COMPRESS,
  },
  async run(context, given, operands) {
    const asked = given.format ?? fromText('oci');
    const format = FORMATS.find((one) => one === asked);
    if (format === undefined) throw new UsageError(`format ${quote(asked)} is none of ${FORMATS.join(', ')}`);
    const directory = format === 'oci-dir' ? given.output : undefined;
    if (format === 'oci-dir' && (directory === undefined || directory === '-')) {
      throw new UsageError('a directory is not for a stream: name it with -o');
    }
    if (directory === undefined) checkDestination(context, given.output);
    const compress = compressionGiven(given.compress);
    const references = operands.map((operand) => textOf(operand, 'the reference'));
    const epochSeconds = sourceDateEpoch(context.env);
    await using store = await openStoreOf(context, { create: false, brief: true, ahead: { jobs: 1 } });
    await withProgress(context, async (onProgress) => {
      const options = {
        ...(epochSeconds === undefined ? {} : { epochSeconds }),
        ...(compress === undefined ? {} : { compress }),
        signal: context.signal,
        onProgress,
      };
      if (directory !== undefined) {
        await withTextPath(directory, (path) => store.images.saveDirectory(references, path, options));
      } else {
        const wanted = { ...options, format: format === 'docker' ? ('docker' as const) : ('oci' as const) };
        const stream = store.images.save(references, { ...wanted, lend: true });
        await writeWith(context, given.output, stream, ({ fd }) => store.images.saveTo(references, fd, wanted));
      }
    });
    // Until the blobs that came in are kept.
    if (format !== 'docker' && !context.quiet) {
      const how = compress === undefined ? 'uncompressed' : `with ${compress}`;
      say(context, `note: layers are saved ${how}, with a new manifest; their diff ids are the same`);
    }
    return 0;
  },
});
