import type { ByteString } from '../base/bytes.ts';

/** A plan of one mount, never an act: drivers make it, `mount/perform` or another runtime performs it. */
export type Mount =
  | { readonly type: 'bind'; readonly source: ByteString; readonly readonly: boolean }
  | {
      readonly type: 'overlay';
      /** Directories, top first. */
      readonly lower: readonly ByteString[];
      readonly upper?: ByteString;
      readonly work?: ByteString;
      readonly userxattr: boolean;
      readonly index?: 'off' | 'on';
      /** Whether renamed directories are marked with where they were, and whether such marks are followed. */
      readonly redirect?: 'on' | 'off' | 'follow' | 'nofollow';
      /** Whether a file whose metadata alone changed is copied up without its data. */
      readonly metacopy?: 'on' | 'off';
      /** Directories below all others, of which only the data of files is taken (kernel 6.5 or newer). */
      readonly dataOnly?: readonly ByteString[];
      /** Other options as they are spelled; none of them names a directory. */
      readonly more?: readonly ByteString[];
      readonly label?: string;
      /** The directory that all of them lie below, and each one's short spelling relative to it. */
      readonly short?: {
        readonly base: ByteString;
        readonly lower: readonly ByteString[];
        readonly upper?: ByteString;
        readonly work?: ByteString;
        readonly dataOnly?: readonly ByteString[];
      };
    };
