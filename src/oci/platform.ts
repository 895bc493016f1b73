import { endianness } from 'node:os';
import { StorageError } from '../base/errors.ts';
import { shown } from './json.ts';

/** What an image runs on, normalised: `variant` is absent where it is the architecture's first (amd64 v1, arm64 v8). */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
}

const ARCHITECTURES: ReadonlyMap<string, readonly [string, string?]> = new Map([
  ['x86_64', ['amd64']],
  ['x86-64', ['amd64']],
  ['i386', ['386']],
  ['i486', ['386']],
  ['i586', ['386']],
  ['i686', ['386']],
  ['aarch64', ['arm64']],
  ['armhf', ['arm', 'v7']],
  ['armel', ['arm', 'v6']],
]);

const KNOWN: ReadonlySet<string> = new Set(
  '386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm'.split(' '),
);

const PART = /^[A-Za-z0-9_.-]{1,64}$/;

/** Spelled as containerd's `platforms.Normalize` spells it: lower case, aliases and first variants folded. */
export function normalizePlatform(os: string, architecture: string, variant = ''): Platform {
  const system = os.toLowerCase() === 'macos' ? 'darwin' : os.toLowerCase();
  const given = architecture.toLowerCase();
  const [arch, implied] = ARCHITECTURES.get(given) ?? [given];
  let version = variant === '' ? (implied ?? '') : variant.toLowerCase();
  if (/^[0-9]+$/.test(version)) version = `v${version}`;
  if (arch === 'arm' && version === '') version = 'v7';
  if ((arch === 'arm64' && version === 'v8') || (arch === 'amd64' && version === 'v1')) version = '';
  return { os: system, architecture: arch, ...(version === '' ? {} : { variant: version }) };
}

/** `os/arch[/variant]`, or an architecture alone (Linux is meant); else `invalid-argument`. */
export function parsePlatform(text: string): Platform {
  const parts = text.split('/');
  const refuse = (state: string): StorageError =>
    new StorageError('invalid-argument', `Cannot use ${shown(text)} as a platform: ${state}, write os/arch[/variant]`);
  if (parts.length > 3 || !parts.every((part) => PART.test(part))) throw refuse('it has another form');
  const [first = '', second, third] = parts;
  if (second !== undefined) return normalizePlatform(first, second, third);
  const alone = normalizePlatform('linux', first);
  if (!KNOWN.has(alone.architecture)) throw refuse('it is no architecture');
  return alone;
}

/** `os/arch[/variant]`. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

/** Linux on the architecture that this process runs on. */
export function defaultPlatform(): Platform {
  const arch: string = process.arch;
  if (arch === 'x64') return { os: 'linux', architecture: 'amd64' };
  if (arch === 'ia32') return { os: 'linux', architecture: '386' };
  if (arch === 'ppc64') return { os: 'linux', architecture: endianness() === 'LE' ? 'ppc64le' : 'ppc64' };
  return normalizePlatform('linux', arch);
}

/**
 * How well `have` serves `want`: undefined not at all, else the higher the better. Same system and architecture; an
 * older variant serves a newer one (arm v6 on v7), as in containerd; a 32-bit architecture never serves a 64-bit one,
 * because an asked platform that is absent must be said.
 */
export function platformRank(want: Platform, have: Platform): number | undefined {
  if (want.os !== have.os || want.architecture !== have.architecture) return undefined;
  if (want.variant === have.variant) return Number.MAX_SAFE_INTEGER;
  const wanted = variantNumber(want);
  const held = variantNumber(have);
  return wanted !== undefined && held !== undefined && held <= wanted ? held : undefined;
}

function variantNumber({ architecture, variant }: Platform): number | undefined {
  if (variant === undefined) return architecture === 'arm64' ? 8 : 1;
  return /^v[0-9]{1,3}$/.test(variant) ? Number(variant.slice(1)) : undefined;
}
