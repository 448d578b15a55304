#include "backward_pass.h"

namespace memx::cuda {

void backward(const Layer& layer, const BackwardArguments& arguments, Workspace& workspace,
              Stream stream) {
  dispatch(layer.type, [&](auto numbers) {
    BackwardPass<decltype(numbers)>(layer, arguments, workspace, stream).run();
  });
}

}  // namespace memx::cuda
