import { createInterface } from 'node:readline';
import type { ByteString } from '../../src/base/bytes.ts';
import { record } from '../../src/base/errors.ts';
import { IDENTITY } from '../../src/base/id-map.ts';
import { SILENT } from '../../src/base/log.ts';
import type { DriverName, LayerId } from '../../src/base/values.ts';
import type { MountOptions } from '../../src/driver/driver.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';

// A process of its own that mounts a layer and says so; `dispose` on its input lets go, the end of its input ends it.

export interface ChildRequest {
  readonly name: DriverName;
  readonly home: ByteString;
  readonly run: ByteString;
  readonly id: LayerId;
  readonly options: MountOptions;
}

if (import.meta.main) {
  const request = JSON.parse(process.argv[2] ?? '') as ChildRequest;
  const say = (what: unknown): void => void process.stdout.write(`${JSON.stringify(what)}\n`);
  const driver = await openLayerDriver(request.name, {
    home: request.home,
    run: request.run,
    options: [],
    idMaps: IDENTITY,
    log: SILENT,
    perform: inlinePerformer(),
  });
  try {
    const mounted = await driver.mount(request.id, request.options);
    say({ path: mounted.path });
    for await (const line of createInterface(process.stdin)) {
      if (line !== 'dispose') continue;
      await mounted[Symbol.asyncDispose]();
      say({ path: mounted.path });
    }
  } catch (error) {
    say({ error: record(error) });
  }
}
