import { fstatSync, readSync } from 'node:fs';
import { posix } from 'node:path';
import type { ByteString } from '../base/bytes.ts';
import { fromText } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { corrupt, shown } from '../oci/json.ts';
import { TarLexer } from '../tar/lexer.ts';
import type { TarEntry, TarEntryType } from '../tar/types.ts';
import type { BlobSource, Members } from './source.ts';

/** An image archive has a handful of members for each layer; what has more is something else, or hostile. */
const MEMBERS_MAX = 100_000;
const NAME_BYTES_MAX = 4096;
const LINKS_MAX = 16;
const WINDOW_MIN = 4 << 10;
const WINDOW_MAX = 1 << 20;

interface Member {
  readonly type: TarEntryType | 'sparse file';
  readonly offset: number;
  readonly length: number;
  readonly linkName: ByteString;
}

/**
 * The ordinary files of an outer archive, by cleaned name, read from its headers: payloads are passed over, never
 * unpacked. Of equal names the last is meant.
 */
export class TarMembers implements Members {
  readonly #fd: number;
  readonly #members: ReadonlyMap<string, Member>;
  /** False where the archive stops without its end marker: perhaps cut. */
  readonly ended: boolean;

  private constructor(fd: number, members: ReadonlyMap<string, Member>, ended: boolean) {
    this.#fd = fd;
    this.#members = members;
    this.ended = ended;
  }

  /** Scans the tar that is the whole of the ordinary file `fd`. Cost: a read or two for each member. */
  static scan(fd: number): TarMembers {
    const members = new Map<string, Member>();
    let position = 0; // in the file, of the next byte that the lexer hands on
    const lexer = new TarLexer({
      raw: (bytes) => {
        position += bytes.length;
      },
      data: (bytes) => {
        position += bytes.length;
      },
      entry: (entry) => addMember(members, entry, position),
      end: () => {},
    });
    const size = fstatSync(fd).size;
    const window = Buffer.allocUnsafe(WINDOW_MAX);
    let length = WINDOW_MIN;
    while (position < size && !lexer.ended) {
      const count = readSync(fd, window, 0, Math.min(length, size - position), position);
      if (count === 0) break;
      lexer.write(window.subarray(0, count));
      const left = lexer.payloadLeft();
      if (left === 0) {
        // Small members one after another: larger steps.
        length = Math.min(length * 2, WINDOW_MAX);
        continue;
      }
      if (left > size - position)
        throw corrupt('the archive', `it is cut off, ${left - (size - position)} bytes are missing`);
      lexer.skip(left);
      position += left;
      length = WINDOW_MIN;
    }
    const { ended } = lexer;
    lexer.finish();
    return new TarMembers(fd, members, ended);
  }

  find(name: string): BlobSource | undefined {
    const member = this.#members.get(name);
    if (member === undefined) return undefined;
    if (member.type === 'file') return { fd: this.#fd, offset: member.offset, length: member.length };
    throw corrupt(`the member ${shown(name)}`, `it is a ${member.type}, not an ordinary file`);
  }

  /** As `find`, but a link is followed to the member it names, inside the archive. */
  follow(name: string): BlobSource | undefined {
    let at = name;
    for (let links = 0; links <= LINKS_MAX; links++) {
      const member = this.#members.get(at);
      if (member?.type !== 'symlink' && member?.type !== 'hardlink') return this.find(at);
      at = cleanName(member.type === 'symlink' ? posix.join(posix.dirname(at), member.linkName) : member.linkName);
    }
    throw corrupt(`the member ${shown(name)}`, 'its links lead in a circle');
  }
}

function addMember(members: Map<string, Member>, entry: TarEntry, offset: number): void {
  if (entry.type === 'skipped' || entry.name.length > NAME_BYTES_MAX || entry.linkName.length > NAME_BYTES_MAX) return;
  members.set(cleanName(entry.name), {
    type: entry.sparse === undefined ? entry.type : 'sparse file',
    offset,
    length: entry.sizeBytes,
    linkName: entry.linkName,
  });
  if (members.size <= MEMBERS_MAX) return;
  throw new StorageError(
    'corrupt',
    `Cannot read the archive: it has more than ${MEMBERS_MAX} members, so it is no image archive`,
  );
}

/** A member's name as one would look it up: no `.`, `..` clamped at the root, no slash at either end. */
export function cleanName(name: string): string {
  return posix.resolve('/', name).slice(1);
}

/** `cleanName` of a name that a document spells. */
export function memberName(text: string): string {
  return cleanName(fromText(text));
}
