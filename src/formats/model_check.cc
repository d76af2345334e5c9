// check_model_dir: walks everything a model loader would read and keeps going after each problem.
#include <fmt/format.h>

#include <optional>
#include <set>

#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_state.h"
#include "formats/config.h"
#include "formats/json.h"
#include "formats/model_layout.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kMaxLines = 50;

// Distinct problems in order of discovery; beyond kMaxLines they are only counted.
class Problems {
 public:
  void add(const std::string& line) {
    if (lines_.size() < kMaxLines) {
      if (seen_.insert(line).second) lines_.push_back(line);
    } else if (!seen_.contains(line)) {
      ++more_;
    }
  }
  // Runs one step and records its Error, so that the next step is taken all the same.
  template <typename Step>
  bool attempt(const Step& step) {
    try {
      step();
      return true;
    } catch (const Error& error) {
      add(error.what());
      return false;
    }
  }
  std::vector<std::string> take() {
    if (more_ > 0) lines_.push_back(fmt::format("and {} more", more_));
    return std::move(lines_);
  }

 private:
  std::vector<std::string> lines_;
  std::set<std::string> seen_;
  std::size_t more_ = 0;
};

// The three linears of one MLP, which follow each other in the layout, are all trellis-coded or all plain.
class MlpKinds {
 public:
  explicit MlpKinds(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  void check(const LinearSpec& spec, const kernels::LinearWeights& linear) {
    const std::size_t dot = spec.prefix.rfind('.');
    const bool of_mlp = spec.role == LinearRole::kExpert || spec.role == LinearRole::kSharedExpert ||
                        spec.role == LinearRole::kDenseMlp;
    if (!of_mlp || dot == std::string::npos) return;
    const std::string mlp = spec.prefix.substr(0, dot);
    if (mlp != mlp_) {
      mlp_ = mlp;
      is_trellis_ = linear.is_trellis();
    } else if (is_trellis_ != linear.is_trellis()) {
      throw Error(
          ErrorKind::kUnsupported,
          fmt::format("{}: linear \"{}.{{gate,up,down}}_proj\": some of the three are trellis-coded and some are "
                      "plain; they must be of one kind",
                      checkpoint_.directory().string(), mlp));
    }
  }

 private:
  const Checkpoint& checkpoint_;
  std::string mlp_;
  bool is_trellis_ = false;
};

}  // namespace

std::vector<std::string> check_model_dir(const std::filesystem::path& model_dir) {
  Problems problems;
  std::optional<ModelConfig> config;
  problems.attempt([&] { config = load_model_config(model_dir); });

  bool files_are_sound = true;
  const bool listed = problems.attempt([&] {
    for (const auto& path : list_safetensors(model_dir)) {
      if (!problems.attempt([&] { SafetensorsFile::open(path); })) files_are_sound = false;
    }
  });
  std::optional<Checkpoint> checkpoint;
  if (listed && files_are_sound) problems.attempt([&] { checkpoint = Checkpoint::open(model_dir); });
  if (!config || !checkpoint) return problems.take();

  MlpKinds kinds(*checkpoint);
  visit_linears(*config, [&](const LinearSpec& spec) {
    // A tied model may store a plain head, which the loader passes over.
    const bool unused = spec.optional && !checkpoint->has_trellis(spec.prefix);
    if (!unused) problems.attempt([&] { kinds.check(spec, load_linear(*checkpoint, spec)); });
    return true;
  });
  for (const VectorSpec& spec : expected_vectors(*config)) {
    problems.attempt([&] { checkpoint->read_vector(spec.name, spec.count); });
  }
  return problems.take();
}

}  // namespace fairway::formats
