import type { Image, LoadedImage } from '../../store/types.ts';
import { type Context, say } from './context.ts';
import { oneLine } from './errors.ts';
import { shownReference } from './format.ts';
import { jsonLine } from './json.ts';

/** What `--json` says of an image; the config's bytes are `inspect`'s. */
export function imageFields(image: Image): Readonly<Record<string, unknown>> {
  const { id, names, manifestDigest, platform, createdAt, sizeBytes, chainId, diffIds } = image;
  return { id, names, manifestDigest, platform, createdAt, sizeBytes, chainId, diffIds };
}

/** Prints each reference and manifest digest (the image's id where it came without a manifest); says what is notable. */
export async function reportLoaded(context: Context, images: readonly LoadedImage[]): Promise<void> {
  for (const image of images) {
    const { moved, notes, existed } = image;
    for (const { name, from } of moved) say(context, `${shownReference(name)} moved from ${from}`);
    for (const note of notes) say(context, `note: ${oneLine(note)}`);
    if (context.json) {
      await context.out.line(jsonLine({ ...imageFields(image), existed, moved, notes }));
      continue;
    }
    const names = image.names.length === 0 ? ['<none>'] : image.names.map(shownReference);
    for (const name of names) await context.out.line(`${name} ${image.manifestDigest ?? image.id}`);
  }
}
