#include "forward_pass.h"

namespace memx::cuda {

void forward(const Layer& layer, const ForwardResults& results, Workspace& workspace,
             void* stream) {
  dispatch(layer.type, [&](auto numbers) {
    run_forward<decltype(numbers)>(layer, results, workspace, static_cast<Stream>(stream));
  });
}

}  // namespace memx::cuda
