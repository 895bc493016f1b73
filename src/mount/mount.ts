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
      readonly label?: string;
      /** The directory that `lower`, `upper` and `work` lie below, and each one's short spelling relative to it. */
      readonly short?: {
        readonly base: ByteString;
        readonly lower: readonly ByteString[];
        readonly upper?: ByteString;
        readonly work?: ByteString;
      };
    };
