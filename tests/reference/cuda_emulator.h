// Executes CUDA kernels on the CPU: every thread of a block is a fiber, and a scheduler lets them take turns.
//
// A fiber runs until it comes to a barrier, a shuffle or another operation of its warp, and waits there for the others.
// The order of the turns is given (first to last, last to first, shuffled): a kernel that lacks a barrier reads what is
// not yet written, or no longer there, in one of these orders. Seen too: a barrier that not all threads of a block
// reach; with -fsanitize=address,undefined accesses outside of an array and vectors at wrong addresses; and copies that
// nobody waited for, because they happen at the wait, and what lies there before is NaN.
//
// Not seen: races between two accesses that no turn separates, the memory model of a real GPU, registers, speed.
#pragma once

#define BLACKBELT_EMULATED
#include <cuda_bf16.h>  // CUDA's own types: their functions exist on the host
#include <cuda_fp16.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace emulator {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::fflush(stderr);
  std::_Exit(3);
}

constexpr size_t STACK_BYTES = 1 << 17;

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Slot {  // what a lane shows to its warp
  unsigned char bytes[64];
};

struct Thread {
  ucontext_t context;
  dim3 index;
  int number = 0;
  enum { READY, AT_BARRIER, AT_WARP, DONE } state = READY;
  int place = 0;        // the line of the barrier it waits at
  unsigned turn = 0;    // operations of its warp so far
  Slot slots[2];        // two: a lane may be one operation ahead of the slowest
  std::vector<std::vector<Copy>> groups{1};  // asynchronous copies; the last group is open
};

struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<char[]>> stacks;
  ucontext_t scheduler;
  Thread* current = nullptr;
  dim3 block, block_size, grid;
  std::vector<unsigned char> shared;
  std::function<void()> kernel;
  int order = 0;  // 0 first to last, 1 last to first, other: shuffled with this seed
};

inline Machine machine;

inline void wait(decltype(Thread::state) state, int place) {
  Thread* self = machine.current;
  self->state = state;
  self->place = place;
  swapcontext(&self->context, &machine.scheduler);
}

inline void block_barrier(int line) { wait(Thread::AT_BARRIER, line); }

// Show a value to the warp and wait for the values of the others; ``slot(l)`` is then what lane l showed.
template <typename V>
void exchange(const V& value, int kind) {
  static_assert(sizeof(V) <= sizeof(Slot));
  std::memcpy(machine.current->slots[machine.current->turn++ % 2].bytes, &value, sizeof(V));
  wait(Thread::AT_WARP, kind);
}

template <typename V>
V of_lane(int lane) {
  const Thread* self = machine.current;
  V value;
  std::memcpy(&value, machine.threads[self->number / 32 * 32 + lane]->slots[(self->turn - 1) % 2].bytes, sizeof(V));
  return value;
}

inline int lane() { return machine.current->number % 32; }

inline void entry() {
  machine.kernel();
  machine.current->state = Thread::DONE;
  swapcontext(&machine.current->context, &machine.scheduler);
}

// Let those go on who all wait at the same place. True where any did.
inline bool release(size_t first, size_t last, decltype(Thread::state) state, const char* complaint) {
  size_t waiting = 0;
  for (size_t i = first; i < last; ++i) waiting += machine.threads[i]->state == state;
  if (waiting == 0) return false;
  for (size_t i = first; i < last; ++i) {
    const Thread& thread = *machine.threads[i];
    if (thread.state == Thread::DONE || (thread.state == state && thread.place != machine.threads[first]->place))
      fail(complaint);
    if (thread.state != state) return false;  // still on its way
  }
  for (size_t i = first; i < last; ++i) machine.threads[i]->state = Thread::READY;
  return true;
}

inline void run_block() {
  const size_t count = machine.threads.size();
  for (size_t i = 0; i < count; ++i) {
    Thread& thread = *machine.threads[i];
    thread.state = Thread::READY;
    thread.turn = 0;
    thread.groups.assign(1, {});
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = machine.stacks[i].get();
    thread.context.uc_stack.ss_size = STACK_BYTES;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, entry, 0);
  }
  std::vector<size_t> turns(count);
  for (size_t i = 0; i < count; ++i) turns[i] = machine.order == 1 ? count - 1 - i : i;
  std::mt19937 random(machine.order);
  for (;;) {
    if (machine.order > 1) std::shuffle(turns.begin(), turns.end(), random);
    for (size_t i : turns) {
      if (machine.threads[i]->state != Thread::READY) continue;
      machine.current = machine.threads[i].get();
      swapcontext(&machine.scheduler, &machine.current->context);
    }
    bool moved = false, done = true;
    for (size_t warp = 0; warp < count; warp += 32)
      moved |= release(warp, std::min(warp + 32, count), Thread::AT_WARP, "lanes of a warp parted before an exchange");
    if (!moved) moved = release(0, count, Thread::AT_BARRIER, "not all threads of the block reach this barrier");
    for (auto& thread : machine.threads) done &= thread->state == Thread::DONE;
    if (done) break;
    if (!moved) fail("threads wait for each other at different barriers");
  }
  for (auto& thread : machine.threads)
    for (auto& group : thread->groups)
      if (!group.empty()) fail("the block ended with copies under way");
}

// The launcher that launch.cuh takes.
struct Launcher {
  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), unsigned blocks, dim3 threads, unsigned shared_bytes,
                  Arguments... arguments) {
    machine.threads.clear();
    for (unsigned i = 0; i < threads.x * threads.y; ++i) {
      machine.threads.push_back(std::make_unique<Thread>());
      machine.threads.back()->number = int(i);
      machine.threads.back()->index = dim3(i % threads.x, i / threads.x, 0);
      if (machine.stacks.size() <= i) machine.stacks.emplace_back(new char[STACK_BYTES]);
    }
    machine.grid = dim3(blocks);
    machine.block_size = threads;
    machine.kernel = [=] { kernel(arguments...); };
    for (unsigned i = 0; i < blocks; ++i) {
      machine.block = dim3(machine.order == 1 ? blocks - 1 - i : i, 0, 0);
      machine.shared.assign(shared_bytes, 0xff);  // NaN in every precision
      machine.shared.shrink_to_fit();
      run_block();
    }
  }
};

}  // namespace emulator

// The words of CUDA.
#undef __shared__
#define __shared__ static  // one block at a time
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx (emulator::machine.current->index)
#define blockIdx (emulator::machine.block)
#define blockDim (emulator::machine.block_size)
#define gridDim (emulator::machine.grid)
#define __syncthreads() emulator::block_barrier(__LINE__)
#define __syncwarp() emulator::exchange(0, __LINE__)
#define BLACKBELT_ASSERT(condition) ((condition) ? void() : emulator::fail("device assertion: " #condition))

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int offset) {
  if (mask != 0xffffffffu) emulator::fail("a shuffle of part of a warp");
  emulator::exchange(value, -1);
  return emulator::of_lane<V>(emulator::lane() ^ offset);
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

namespace blackbelt {

// What tensor_core_instructions.cuh has in PTX, after the PTX manual, "Warp-level matrix instructions".

inline unsigned char* dynamic_shared_memory() { return emulator::machine.shared.data(); }

inline void copy_async(void* to, const void* from, bool valid) {
  if ((size_t(to) | size_t(from)) % 16) emulator::fail("cp.async of 16 bytes at an address that is no multiple of 16");
  emulator::machine.current->groups.back().push_back({to, from, valid});
  std::memset(to, 0xff, 16);
}

inline void commit_copies() { emulator::machine.current->groups.emplace_back(); }

template <int PENDING>
void wait_for_copies() {
  auto& groups = emulator::machine.current->groups;
  while (groups.size() > PENDING + 1) {  // the last is not committed yet
    for (const auto& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.valid) std::memcpy(copy.to, copy.from, 16);
    }
    groups.erase(groups.begin());
  }
}

inline void load_matrices_as(unsigned (&registers)[4], const void* row, bool transposed) {
  if (size_t(row) % 16) emulator::fail("ldmatrix of a row at an address that is no multiple of 16");
  emulator::exchange(row, -2 - transposed);
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    unsigned short halves[2];
    for (int i = 0; i < 2; ++i) {
      const int line = transposed ? lane % 4 * 2 + i : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + i;
      const auto* address = emulator::of_lane<const void*>(matrix * 8 + line);
      std::memcpy(&halves[i], static_cast<const unsigned char*>(address) + 2 * column, 2);
    }
    registers[matrix] = halves[0] | unsigned(halves[1]) << 16;
  }
}

inline void load_matrices(unsigned (&registers)[4], const void* row) { load_matrices_as(registers, row, false); }
inline void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
  load_matrices_as(registers, row, true);
}

inline unsigned to_tf32(unsigned bits) {  // to nearest, ties away from zero; 13 bits fewer
  const bool finite = (bits >> 23 & 255) != 255;
  return (finite ? bits + 0x1000u : bits) & ~0x1fffu;
}

template <typename T>
float number(const unsigned* registers, int index) {
  if constexpr (sizeof(T) == 4) {
    if (registers[index] & 0x1fffu) emulator::fail("a number for tf32 that was not rounded");
    float x;
    std::memcpy(&x, &registers[index], 4);
    return x;
  } else {
    const unsigned short bits = registers[index / 2] >> (index % 2 * 16);
    T x;
    std::memcpy(&x, &bits, 2);
    if constexpr (std::is_same_v<T, __half>) return __half2float(x);
    else return __bfloat162float(x);
  }
}

template <typename T>
void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Operands {
    unsigned a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emulator::exchange(mine, -4);
  constexpr int DEPTH = 32 / sizeof(T), PAIR = 4 / sizeof(T);  // numbers of one register
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    float sum = 0;
    for (int k = 0; k < DEPTH; ++k) {
      // Registers of a: (rows 0-7, first half of k), (8-15, first), (0-7, second), (8-15, second). Of b: first, second.
      const int half = k / (DEPTH / 2), within = k % (DEPTH / 2), owner = within / PAIR, part = within % PAIR;
      const auto left = emulator::of_lane<Operands>(row % 8 * 4 + owner);
      const auto right = emulator::of_lane<Operands>(column * 4 + owner);
      sum += number<T>(left.a, (row / 8 + half * 2) * PAIR + part) * number<T>(right.b, half * PAIR + part);
    }
    sums[i] += sum;
  }
}

}  // namespace blackbelt
