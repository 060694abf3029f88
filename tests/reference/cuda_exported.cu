// Every kernel that launch.cuh chooses from, as bindings.cu has them, without PyTorch: only compiled.
#include "launch.cuh"

using namespace blackbelt;

struct Launcher {
  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), unsigned blocks, dim3 threads, unsigned bytes, Arguments... arguments) {
    kernel<<<blocks, threads, bytes>>>(arguments...);
  }
};

template <typename T>
void all(Launcher& l, T* p, Wide<T>* w, double* d, const Index* t) {
  launch_softmax<T>(l, p, p, 1, 1);
  launch_softmax_backward<T>(l, p, p, p, 1, 1);
  launch_cross_entropy<T>(l, p, t, 0, w, d, 1, 1);
  launch_cross_entropy_backward<T>(l, w, p, t, d, 0, p, 1, 1);
  launch_cross_entropy_in_place<T>(l, p, t, 0, w, w, 1, 1);
  launch_bias_gelu<T>(l, p, p, p, 1, 1);
  launch_bias_gelu_backward<T>(l, p, p, p, p, p, w, 1, 1);
  launch_rms_norm<T>(l, p, p, 0.0, p, w, 1, 1);
  launch_rms_norm_backward<T>(l, p, p, p, w, p, p, w, 1, 1);
  launch_matmul<T>(l, Rung::NAIVE, p, p, p, 1, 1, 1);
}

void every_type(Launcher& l, void* p, double* d, const Index* t) {
  auto* f = static_cast<float*>(p);
  all(l, f, f, d, t);
  all(l, d, d, d, t);
  all(l, static_cast<__half*>(p), f, d, t);
  all(l, static_cast<__nv_bfloat16*>(p), f, d, t);
}
