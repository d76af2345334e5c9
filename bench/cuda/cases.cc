// The geometries, widths and numbers of tokens that are measured.
#include "cuda/layers.cuh"

namespace fairway::kernels::cuda::bench {

// Paths that decode an expert once for far fewer tokens than it has are not worth the time to measure.
bool worth_timing(const Case& c, int tokens, MoePath path) {
  const double per_expert = static_cast<double>(tokens) * c.top_k / c.routed;
  switch (path) {
    case MoePath::kIntDirect:
    case MoePath::kIntDirect1:
      return tokens <= 4;
    case MoePath::kIntStream:
    case MoePath::kIntStream3:
      return per_expert <= 8;
    case MoePath::kInt4:
      return per_expert <= 4;
    case MoePath::kInt8:
    case MoePath::kHalf8:
      return per_expert <= 16;
    case MoePath::kHalf16:
      return per_expert <= 32;
    case MoePath::kHalf32:
      return per_expert >= 1;
    case MoePath::kWide128:
      return per_expert >= 4;
  }
  return true;
}

std::vector<Case> cases(Selection selection) {
  const std::vector<int> all{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}, some{1, 8, 32}, few{1, 2, 4, 8, 16, 32};
  const auto glm = [&](const char* widths, std::vector<Tuple> tuples, bool common, const std::vector<int>& tokens,
                       bool paths) {
    return Case{"glm-4.7-flash", 2048, 1536, 64, 1, 4, widths, std::move(tuples), common, tokens, paths};
  };
  const auto qwen = [&](bool common, const std::vector<int>& tokens, bool paths) {
    return Case{"qwen3-30b-a3b", 2048, 768, 128, 0, 8, "4,4,4", {{4, 4, 4}}, common, tokens, paths};
  };
  if (selection == Selection::kFew) {
    return {glm("3,3,3", {{3, 3, 3}}, true, few, true), glm("6,2,3 and 6,3,4", {{6, 2, 3}, {6, 3, 4}}, true, few, true),
            qwen(true, few, true)};
  }
  std::vector<Case> list{glm("3,3,3", {{3, 3, 3}}, true, all, true)};
  if (selection == Selection::kBrief) return list;
  list.push_back(glm("3,3,3", {{3, 3, 3}}, false, {1, 8, 32, 256, 1024}, false));
  list.push_back(glm("6,2,3", {{6, 2, 3}}, true, some, false));
  list.push_back(glm("6,3,4", {{6, 3, 4}}, true, some, false));
  list.push_back(glm("mean 3", {{3, 3, 3}, {2, 2, 2}, {4, 4, 4}, {4, 2, 3}, {2, 3, 4}}, true, some, false));
  list.push_back(glm("4,4,4", {{4, 4, 4}}, true, some, false));
  list.push_back(glm("2,2,2", {{2, 2, 2}}, true, some, false));
  list.push_back(qwen(true, all, true));
  list.push_back(qwen(false, {1, 8, 32, 1024}, false));
  return list;
}

}  // namespace fairway::kernels::cuda::bench
