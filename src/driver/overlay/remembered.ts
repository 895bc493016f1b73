import { release } from 'node:os';
import { type ByteString, fromText } from '../../base/bytes.ts';
import { AT_FDCWD, lstatat } from '../../linux/inode.ts';
import { inUserNamespace } from '../../linux/kernel.ts';
import { ENOENT } from '../../linux/libc.ts';
import type { Performer } from '../driver.ts';
import { placeSmall, readSmall } from '../home-files.ts';
import { type OverlayFindings, probeOverlay } from './probe.ts';

// A probe mounts, which takes longer than all else that opening a driver does. What it found stays true until the
// kernel, the filesystem or this process's rights are others; RUN, where it is remembered, ends with the boot.

const FILE = 'overlay' as ByteString;

/** As `probeOverlay`, or what it found before in the same circumstances. Only a finding that it works is remembered. */
export async function overlayFindings(
  run: ByteString,
  directory: ByteString,
  perform: Performer,
): Promise<OverlayFindings> {
  const file = `${run}/${FILE}` as ByteString;
  const key = circumstances(directory);
  const known = parse(readSmall(file), key);
  if (known !== undefined) return known;
  const found = await probeOverlay(directory, perform);
  if (found.overlay.holds && found.dType.holds) placeSmall(run, file, format(found, key), 0o600);
  return found;
}

function circumstances(directory: ByteString): string {
  const device = lstatat(AT_FDCWD, directory, ENOENT)?.dev ?? 0;
  const rights = `${process.geteuid?.() ?? 0} ${inUserNamespace() ? 'user-namespace' : 'host'}`;
  return fromText(`${release()} ${device} ${rights}`);
}

function format({ overlay, dType, backing, index }: OverlayFindings, key: string): string {
  return `${key}\n${backing}\n${index ? 'index' : 'no index'}\n${fromText(overlay.because)}\n${fromText(dType.because)}\n`;
}

function parse(text: ByteString | undefined, key: string): OverlayFindings | undefined {
  const [known, backing, index, overlay, dType, end] = text?.split('\n') ?? [];
  if (known !== key || backing === undefined || overlay === undefined || dType === undefined || end !== '')
    return undefined;
  return {
    overlay: { holds: true, because: overlay },
    dType: { holds: true, because: dType },
    backing,
    index: index === 'index',
  };
}
