/** `layerstore/tar`: archives as bytes and back, exactly; no filesystem, any system with Node. */
export { type ByteString, fromBytes, fromText, toBytes, toText } from '../base/bytes.ts';
export type { Abortable, ByteStream } from '../base/values.ts';
export { TAR_LIMITS, TarLexer } from './lexer.ts';
export { type ReadTarOptions, readTar, type TarMember } from './read.ts';
export { SplitReader, type SplitSink, SplitWriter } from './split.ts';
export type { Extent, TarEntry, TarEntryType, TarLimits, TarSink } from './types.ts';
export { encodeEntry, paddingFor, trailer } from './write.ts';
