import type { Digest } from '../base/digest.ts';
import { digestOf } from '../base/digest.ts';

/** Name of a layer together with all below it: the diff id itself at the base, else over `PARENT DIFFID` as text
 *  (OCI image-spec config.md, "Layer ChainID"). `digest`: who hashes. */
export function chainId(
  parent: Digest | undefined,
  diffId: Digest,
  digest: (text: string) => Digest = digestOf,
): Digest {
  return parent === undefined ? diffId : digest(`${parent} ${diffId}`);
}

/** The chain id of each of `diffIds`, base first. */
export function chainIds(diffIds: readonly Digest[]): readonly Digest[] {
  let parent: Digest | undefined;
  return diffIds.map((diffId) => {
    parent = chainId(parent, diffId);
    return parent;
  });
}
