import { fileURLToPath } from 'node:url';

const LIBC = fileURLToPath(new URL('../../src/linux/libc.ts', import.meta.url));

/** The start of a program that finds other functions of those names in its process: `code` is what it gets, as JavaScript. */
export function replacingFunctions(names: RegExp, code: string): string {
  return `
    const { default: koffi } = await import(${JSON.stringify(import.meta.resolve('koffi'))});
    const load = koffi.load;
    koffi.load = (name) => {
      const library = load(name);
      const replaced = (...of) => (${names}.test(of[0]) ? ${code} : library.func(...of));
      return { func: replaced };
    };
    await import(${JSON.stringify(LIBC)});`;
}

/** As `code`: there are none. */
export const MISSING = "(() => { throw new Error('no such function'); })()";
