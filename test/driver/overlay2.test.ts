import { openLayerDriver } from '../../src/driver/open.ts';
import { driverSuite } from '../contract/driver-suite.ts';

driverSuite('overlay2', (settings) => openLayerDriver('overlay2', settings));
