// How full the memory of this machine is.
#pragma once

namespace fairway::backend {

// Share of memory that is not available for new pages, 0 (empty) to 1 (full): of the machine, or of the control group
// this process is confined to if that is fuller. 0 where the system does not say. A few microseconds: it reads /proc.
double memory_pressure();

}  // namespace fairway::backend
