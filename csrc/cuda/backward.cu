#include "backward_pass.h"

namespace memx::cuda {

void backward(const Layer& layer, const BackwardArguments& arguments, Workspace& workspace,
              void* stream) {
  dispatch(layer.type, [&](auto numbers) {
    BackwardPass<decltype(numbers)>(layer, arguments, workspace, static_cast<Stream>(stream)).run();
  });
}

}  // namespace memx::cuda
