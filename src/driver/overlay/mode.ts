import type { LayerMode } from '../driver.ts';
import type { OverlayFindings } from './probe.ts';

/** What a layer is written under where such was found. */
export function modeOf({ copyUp, index }: OverlayFindings): LayerMode {
  if (copyUp === undefined) return {};
  return {
    redirect: copyUp.redirects.holds ? 'on' : 'off',
    metacopy: copyUp.metacopy.holds ? 'on' : 'off',
    userxattr: false,
    ...(index ? { index: 'off' } : {}),
  };
}

/**
 * What is to be said to the kernel so that a layer that was written under `wanted` is read as that. Nothing where it is the
 * kernel's own way (`now`): older kernels know no such options.
 */
export function modeOptions(now: LayerMode, wanted: LayerMode = {}): Pick<LayerMode, 'redirect' | 'metacopy'> {
  const { redirect, metacopy } = { ...now, ...wanted };
  if (redirect === now.redirect && metacopy === now.metacopy) return {};
  return { ...(redirect && { redirect }), ...(metacopy && { metacopy }) };
}
