// Runs the CUDA kernels on the emulator for the jobs on standard input, one a line:
//
//   operator dtype order shift rows columns depth folder
//
// Built for one dtype: -DELEMENT=float -DNAME="float32". Arguments are raw files <folder>/in0, in1, … and results are written to out0, out1, … ``shift`` places every array so
// many elements behind an address that is a multiple of 16. Arrays have exactly their size: who reads beyond is caught.
#include "cuda_emulator.h"
//
#include <fstream>
#include <iostream>
#include <string>

#ifdef BROKEN
#include BROKEN  // a file with mistakes, to see that they are noticed
#else
#include "launch.cuh"
#endif

using blackbelt::Index;
using blackbelt::Wide;

struct Job {
  std::string name, dtype, folder;
  int order, shift, inputs = 0, outputs = 0;
  Index rows, columns, depth;
  std::vector<std::function<void()>> at_end;
  std::vector<void*> blocks;

  template <typename V>
  V* room(Index count) {
    char* block = nullptr;
    if (posix_memalign(reinterpret_cast<void**>(&block), 16, (count + shift) * sizeof(V))) std::abort();
    std::memset(block, 0xff, (count + shift) * sizeof(V));
    blocks.push_back(block);
    return reinterpret_cast<V*>(block) + shift;
  }
  template <typename V>
  V* in(Index count) {
    V* array = room<V>(count);
    std::ifstream file(folder + "/in" + std::to_string(inputs++), std::ios::binary);
    file.read(reinterpret_cast<char*>(array), count * sizeof(V));
    if (file.gcount() != std::streamsize(count * sizeof(V))) emulator::fail("an argument is too short");
    return array;
  }
  template <typename V>
  void save(V* array, Index count) {
    const std::string path = folder + "/out" + std::to_string(outputs++);
    at_end.push_back([=] {
      std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(array), count * sizeof(V));
    });
  }
  template <typename V>
  V* out(Index count) {
    V* array = room<V>(count);
    save(array, count);
    return array;
  }
  void finish() {
    for (auto& action : at_end) action();
    for (void* block : blocks) std::free(block);
  }
};

template <typename T>
void run(Job& job) {
  using namespace blackbelt;
  using W = Wide<T>;
  emulator::Launcher launch;
  const Index r = job.rows, c = job.columns, k = job.depth;
  const Index ignore = -100;
  if (job.name == "softmax") {
    auto* input = job.in<T>(r * c);
    launch_softmax<T>(launch, input, job.out<T>(r * c), r, c);
  } else if (job.name == "softmax_backward") {
    auto *grad = job.in<T>(r * c), *out = job.in<T>(r * c);
    launch_softmax_backward<T>(launch, grad, out, job.out<T>(r * c), r, c);
  } else if (job.name == "cross_entropy") {
    auto* logits = job.in<T>(r * c);
    auto* target = job.in<Index>(r);
    auto* losses = job.out<W>(r);
    launch_cross_entropy<T>(launch, logits, target, ignore, losses, job.out<double>(r), r, c);
  } else if (job.name == "cross_entropy_backward") {
    auto* grad = job.in<W>(r);
    auto* logits = job.in<T>(r * c);
    auto* target = job.in<Index>(r);
    auto* lse = job.in<double>(r);
    launch_cross_entropy_backward<T>(launch, grad, logits, target, lse, ignore, job.out<T>(r * c), r, c);
  } else if (job.name == "cross_entropy_") {
    auto* logits = job.in<T>(r * c);
    auto* target = job.in<Index>(r);
    auto* factor = job.in<W>(1);
    launch_cross_entropy_in_place<T>(launch, logits, target, ignore, factor, job.out<W>(r), r, c);
    job.save(logits, r * c);
  } else if (job.name == "bias_gelu") {
    auto *input = job.in<T>(r * c), *bias = job.in<T>(c);
    launch_bias_gelu<T>(launch, input, bias, job.out<T>(r * c), r, c);
  } else if (job.name == "bias_gelu_backward") {
    auto *grad = job.in<T>(r * c), *input = job.in<T>(r * c), *bias = job.in<T>(c);
    auto *grad_input = job.out<T>(r * c), *grad_bias = job.out<T>(c);
    launch_bias_gelu_backward<T>(launch, grad, input, bias, grad_input, grad_bias, job.room<W>(column_groups(r) * c), r,
                                 c);
  } else if (job.name == "rms_norm") {
    auto *input = job.in<T>(r * c), *weight = job.in<T>(c);
    auto* out = job.out<T>(r * c);
    launch_rms_norm<T>(launch, input, weight, 1e-6, out, job.out<W>(r), r, c);
  } else if (job.name == "rms_norm_backward") {
    auto *grad = job.in<T>(r * c), *input = job.in<T>(r * c), *weight = job.in<T>(c);
    auto* rstd = job.in<W>(r);
    auto *grad_input = job.out<T>(r * c), *grad_weight = job.out<T>(c);
    launch_rms_norm_backward<T>(launch, grad, input, weight, rstd, grad_input, grad_weight,
                                job.room<W>(rms_norm_groups<T>(r, c) * c), r, c);
  } else {
    const std::vector<std::string> rungs = {"naive", "tiles", "registers", "tensor_cores"};
    const auto rung = std::find(rungs.begin(), rungs.end(), job.name);
    if (rung == rungs.end()) emulator::fail("no such operator");
    auto *a = job.in<T>(r * k), *b = job.in<T>(k * c);
    launch_matmul<T>(launch, Rung(rung - rungs.begin()), a, b, job.out<T>(r * c), r, c, k);
  }
  job.finish();
}

int main() {
  Job job;
  while (std::cin >> job.name >> job.dtype >> job.order >> job.shift >> job.rows >> job.columns >> job.depth >>
         job.folder) {
    std::cerr << job.name << ' ' << job.dtype << ' ' << job.rows << ' ' << job.columns << ' ' << job.depth << " order "
              << job.order << " shift " << job.shift << std::endl;
    emulator::machine.order = job.order;
    Job one = job;
    if (job.dtype != NAME) emulator::fail("this program was built for another dtype");
    run<ELEMENT>(one);
  }
}
