import { fromText } from '../../base/bytes.ts';
import { familiarReference, formatReference, parseReference } from '../../oci/reference.ts';
import { harmless } from './errors.ts';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `0B`, `980B`, `1.23kB`, `121MB`: three figures, units of 1000. */
export function humanSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 999.5 would be rounded to 1000.
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const text = unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, '');
  return `${text}${UNITS[unit]}`;
}

/** The first 12 characters of an id, without its algorithm; whole with `whole`. */
export function shownId(id: string, whole: boolean): string {
  return whole ? id : id.replace(/^sha256:/, '').slice(0, 12);
}

/** `x:1` for `docker.io/library/x:1`; what is no full reference stays as it is. */
export function shownReference(name: string): string {
  try {
    const reference = parseReference(name);
    return formatReference(reference) === name ? familiarReference(reference) : name;
  } catch {
    return name; // It is an id, or the name of a writable layer.
  }
}

/** `2026-01-31 09:30:00` in UTC, or `-` where there is no time or none that can be read. */
export function shownTime(time: string | undefined): string {
  const ms = time === undefined ? Number.NaN : Date.parse(time);
  return Number.isNaN(ms) ? '-' : new Date(ms).toISOString().slice(0, 19).replace('T', ' ');
}

/** Text out of an image's config, fit for a line of a table. */
export function shownText(text: string): string {
  return harmless(fromText(text));
}
