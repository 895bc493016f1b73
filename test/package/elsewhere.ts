// Preloaded (`node --import`) by elsewhere.test.ts: this process believes that it runs on the system that ELSEWHERE names,
// and koffi, which has no business there, cannot be found.
import { registerHooks } from 'node:module';

Object.defineProperty(process, 'platform', { value: process.env['ELSEWHERE'] });
registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'koffi') throw new Error('there is no koffi here');
    return next(specifier, context);
  },
});
