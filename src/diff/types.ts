import type { ByteString } from '../base/bytes.ts';
import type { IdMaps } from '../base/id-map.ts';
import type { Change } from '../base/values.ts';
import type { OverlayMarks, WhiteoutStyle } from '../fs/whiteouts.ts';
import type { Stat } from '../linux/inode.ts';

/** Which equality makes a change (driver-behaviour D7): ours, or the one whose lists Docker prints. */
export type Rendering = 'core' | 'docker';

/** A step of a walk that was guided by an upper directory. */
interface Told {
  /** Under the same path in the upper lies what the view shows, as far as its stat tells (`showsItself`). */
  readonly itself?: boolean;
  /** The stat is of a look at the upper before the walk: what is there may be gone, or another, when its turn comes. */
  readonly early?: boolean;
}

/** A listed change, with what the view shows there now. */
export interface Listed extends Change, Told {
  /** Absent for a delete. Of what the upper told of, number and device are those there. */
  readonly stat?: Stat;
}

/**
 * What a layer archive must hold although no list names it: a directory whose time alone differs, the root (path `/`)
 * where more than its times differ, an unchanged file that a listed name is linked to.
 */
export interface Carried extends Told {
  readonly kind: 'carried';
  readonly because: 'times' | 'root' | 'linked';
  readonly path: ByteString;
  readonly stat: Stat;
}

/** A directory of the upper that an archive has only where it has something in it: see `parentsImplied`. */
export interface Implied extends Told {
  readonly kind: 'implied';
  readonly path: ByteString;
}

/**
 * One step of a comparison, in the order of the archive: depth first, names by bytes within a directory, a directory
 * before its children. Law: the archive packed from them, applied to a copy of the base, gives the view.
 */
export type Difference = Listed | Carried | Implied;

/** As much of a difference as its packer needs: it looks at everything again. */
export type Packable = {
  readonly kind: Difference['kind'];
  readonly path: ByteString;
  readonly itself?: boolean;
} & ({ readonly early: true; readonly stat?: Stat } | { readonly early?: false; readonly stat?: Pick<Stat, 'mode'> });

/** What a directory of an upper holds. */
export interface Listing {
  /** Sorted by bytes. */
  readonly names: readonly ByteString[];
  /** The names of its extended attributes. */
  readonly attributes: readonly ByteString[];
  readonly marks: OverlayMarks;
  /** Of each name, where they were asked for: undefined for one that was gone by then. */
  readonly stats?: readonly (Stat | undefined)[] | undefined;
}

export interface WalkOptions {
  /** The upper directory that the view was mounted with: what lies in it is in doubt, however equal it looks. */
  readonly upper?: ByteString;
  /**
   * How that upper spells what overlayfs wrote into it. Given: only names that lie in it are compared (see `upper.ts`
   * for where that finds everything). Absent: all names of both trees.
   */
  readonly guide?: Exclude<WhiteoutStyle, 'none'>;
  /** Of directories of that upper, by path: what was read of them a moment ago. */
  readonly listings?: ReadonlyMap<ByteString, Listing>;
  /**
   * Of directories that the upper says were copied up nothing is asked of the base: they are told as `implied`, since who
   * packs writes those that lead to an entry anyway, and once more, for what they differ in, where nothing in them was told.
   */
  readonly parentsImplied?: boolean;
  /** Called for each directory of that upper that guides the walk, before anything in it is; what it throws ends the walk. */
  readonly entering?: (fd: number, path: ByteString, listing: Listing) => void;
  /** Directories that were moved, by where they are now: where they were in the base. They are listed as renames. */
  readonly renames?: ReadonlyMap<ByteString, ByteString>;
  /** Where there is no upper: when the layer was made. What was touched since is in doubt. */
  readonly createdNs?: bigint;
  /** Host ids of the container's root, whose directory a layer without a base need not mention. Default 0, 0. */
  readonly rootPair?: { readonly uid: number; readonly gid: number };
  /** Called at every entry, also where nothing differs; what it throws ends the walk. */
  readonly check?: () => void;
}

export interface PackOptions {
  /** The upper directory that the view was mounted with, without what is mounted in it: faster to read than the view. */
  readonly upper?: ByteString;
  /** `docker`: capabilities only, and whole seconds. Default: all that a layer keeps. */
  readonly xattrs?: 'all' | 'docker';
  /** Ids in the archive are the container's. Default: the host's own. */
  readonly ids?: IdMaps;
  /** Told of everything an archive cannot hold and that is left out: sockets. */
  readonly skipped?: (path: ByteString, because: string) => void;
}
