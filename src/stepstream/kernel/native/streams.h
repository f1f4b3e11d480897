// Plain samples of many keyed streams, in place in an engine's table.
#pragma once

#include <nanobind/nanobind.h>

namespace stepstream {

void bind_streams(nanobind::module_& m);

}  // namespace stepstream
