#pragma once

#include "kernels/backend.h"

namespace baleen {

// What a floor divides by. The rates are those of docs/performance.md, for Hopper.
inline constexpr double kBf16Rate = 790e12;  // FLOP/s
inline constexpr double kFp8Rate = 1500e12;

// Bytes a second, read and written, of a copy of 2 GiB of rows on the backend's device: the median
// of some rounds. 1 when there is too little memory.
double MeasureCopy(kernels::Backend& backend);

}  // namespace baleen
