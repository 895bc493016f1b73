import { type ByteString, fromText } from '../../base/bytes.ts';
import type { Finding } from '../../base/values.ts';
import { AT_FDCWD, lstatat } from '../../linux/inode.ts';
import { effectiveCapabilities, inUserNamespace, moduleParameter } from '../../linux/kernel.ts';
import { ENOENT } from '../../linux/libc.ts';
import { kernelRelease } from '../../linux/uname.ts';
import type { Performer } from '../driver.ts';
import { placeSmall, readSmall } from '../home-files.ts';
import { HOST, type OverlayFindings, probeOverlay } from './probe.ts';

// A probe mounts, which takes longer than all else that opening a driver does. What it found stays true until the
// kernel, the filesystem or this process's rights are others; RUN, where it is remembered, ends with the boot.

const FILE = 'overlay' as ByteString;

/**
 * As `probeOverlay`, or what it found before in the same circumstances. Only a finding that it works is remembered.
 * `found`: by this process a moment ago, before there was a place to remember it.
 */
export async function overlayFindings(
  run: ByteString,
  directory: ByteString,
  perform: Performer,
  found?: OverlayFindings,
): Promise<OverlayFindings> {
  const file = `${run}/${FILE}` as ByteString;
  const key = circumstances(directory);
  const known = parse(readSmall(file), key);
  if (known !== undefined) return known;
  const findings = found ?? (await probeOverlay(directory, perform));
  if (findings.overlay.holds && findings.dType.holds) placeSmall(run, file, format(findings, key), 0o600);
  return findings;
}

function circumstances(directory: ByteString): string {
  const device = lstatat(AT_FDCWD, directory, ENOENT)?.dev ?? 0;
  const where = inUserNamespace() ? 'user-namespace' : 'host';
  const rights = `${process.geteuid?.() ?? 0} ${effectiveCapabilities()} ${where}`; // root may lack that of mounting
  // What the kernel takes as its defaults can be switched while it runs.
  const defaults = ['redirect_dir', 'metacopy', 'index'].map((name) => moduleParameter('overlay', name) ?? '-');
  return fromText(`${kernelRelease()} ${device} ${rights} ${defaults.join('')}`);
}

/** In the order in which they are written, a line each. */
const COPY_UP = ['nativeDiff', 'copiesOpaque', 'redirects', 'metacopy'] as const;

function format({ overlay, dType, backing, index, copyUp }: OverlayFindings, key: string): string {
  const line = ({ holds, because }: Finding): string => `${holds ? '+' : '-'}${fromText(because)}`;
  const findings = copyUp === undefined ? [] : COPY_UP.map((name) => line(copyUp[name]));
  return [key, backing, index ? 'index' : 'no index', line(overlay), line(dType), ...findings, ''].join('\n');
}

function parse(text: ByteString | undefined, key: string): OverlayFindings | undefined {
  const [known, backing, index, ...rest] = text?.split('\n') ?? [];
  if (known !== key || backing === undefined || rest.pop() !== '') return undefined;
  const findings = rest.map((line): Finding => ({ holds: line.startsWith('+'), because: line.slice(1) }));
  const [overlay, dType, nativeDiff, copiesOpaque, redirects, metacopy, more] = findings;
  if (overlay === undefined || dType === undefined || more !== undefined) return undefined;
  if (nativeDiff === undefined || copiesOpaque === undefined || redirects === undefined || metacopy === undefined) {
    return undefined;
  }
  return {
    overlay,
    dType,
    backing,
    index: index === 'index',
    userxattr: HOST, // nothing is remembered of a user namespace
    copyUp: { nativeDiff, copiesOpaque, redirects, metacopy },
  };
}
