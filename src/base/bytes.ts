/**
 * Names on Linux are bytes, not text. A `ByteString` holds one byte per character (latin1): lossless, and it sorts,
 * compares and splits exactly as the bytes do.
 */
export type ByteString = string & { readonly __bytes: unique symbol };

/** The bytes of `buffer` (all, or from `start` to `end`) as a ByteString. */
export function fromBytes(buffer: Uint8Array, start = 0, end: number = buffer.length): ByteString {
  return Buffer.from(buffer.buffer, buffer.byteOffset, buffer.byteLength).toString('latin1', start, end) as ByteString;
}

/** A JavaScript string (a literal, an argument, JSON) as the ByteString of its UTF-8 form. */
export function fromText(text: string): ByteString {
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) > 0x7f) return Buffer.from(text, 'utf8').toString('latin1') as ByteString;
  }
  return text as ByteString;
}

/** The bytes themselves: what `node:fs` takes as a path. */
export function toBytes(name: ByteString): Buffer {
  return Buffer.from(name, 'latin1');
}

/** For people: decoded as UTF-8, with U+FFFD where the bytes are not. */
export function toText(name: ByteString): string {
  for (let i = 0; i < name.length; i++) {
    if (name.charCodeAt(i) > 0x7f) return Buffer.from(name, 'latin1').toString('utf8');
  }
  return name;
}

/** Decoded as UTF-8, or undefined where the bytes are not valid UTF-8. */
export function toTextExact(name: ByteString): string | undefined {
  const text = toText(name);
  return text === (name as string) || fromText(text) === name ? text : undefined;
}

/**
 * For terminals, logs and error messages: text where every control character, quote-breaking character and invalid
 * byte is escaped, so that a name chosen by a layer can neither move a cursor nor fake a line.
 */
export function quote(name: ByteString): string {
  const text = toTextExact(name);
  const shown = text ?? (name as string);
  let out = '"';
  for (const char of shown) {
    const code = char.codePointAt(0) ?? 0;
    if (char === '"' || char === '\\') out += `\\${char}`;
    else if (char === '\n') out += '\\n';
    else if (char === '\t') out += '\\t';
    else if (code < 0x20 || (code >= 0x7f && code < 0xa0) || (text === undefined && code > 0x7e)) {
      out += `\\x${code.toString(16).padStart(2, '0')}`;
    } else if (isInvisible(code)) out += `\\u{${code.toString(16)}}`;
    else out += char;
  }
  return `${out}"`;
}

/** Bidirectional controls, zero-width characters, line separators: they change how the rest of a line is shown. */
function isInvisible(code: number): boolean {
  return (
    (code >= 0x200b && code <= 0x200f) ||
    (code >= 0x2028 && code <= 0x202e) ||
    (code >= 0x2060 && code <= 0x206f) ||
    code === 0xfeff ||
    code === 0xad
  );
}

/** Order of two names by their bytes. */
export function compareBytes(a: ByteString, b: ByteString): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** `a/b`, without a doubled slash. */
export function joinBytes(directory: ByteString, name: ByteString): ByteString {
  return (directory.endsWith('/') ? `${directory}${name}` : `${directory}/${name}`) as ByteString;
}
