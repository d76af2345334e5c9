// Reads the pre-tokenizer into a flat list of steps and runs them over one UTF-16 copy of the text.
#include "formats/pre_tokenizer.h"

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "formats/byte_symbols.h"
#include "formats/json.h"
#include "formats/split_pattern.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

// ICU counts in 32 bits, and byte symbols may double the length.
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 29;

// GPT-2's word pattern, which ByteLevel applies on its own when use_regex is true.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The text in work. Pieces are in order and do not overlap.
struct Pieces {
  std::u16string text;
  std::vector<UnitRange> ranges;

  std::u16string_view at(UnitRange range) const {
    return std::u16string_view(text).substr(static_cast<std::size_t>(range.begin),
                                            static_cast<std::size_t>(range.end - range.begin));
  }
};

// Rebuilds the text from its pieces, each through `change`, which appends to the string it is given.
template <typename Change>
void rewrite(Pieces& pieces, Change change) {
  Pieces result;
  result.text.reserve(pieces.text.size() + pieces.ranges.size());
  for (const UnitRange range : pieces.ranges) {
    const auto begin = static_cast<std::int32_t>(result.text.size());
    change(pieces.at(range), result.text);
    result.ranges.push_back({begin, static_cast<std::int32_t>(result.text.size())});
  }
  pieces = std::move(result);
}

void add_prefix_spaces(Pieces& pieces) {
  rewrite(pieces, [](std::u16string_view piece, std::u16string& out) {
    if (!piece.starts_with(u' ')) out += u' ';
    out += piece;
  });
}

void map_bytes(Pieces& pieces) {
  std::string bytes;
  rewrite(pieces, [&bytes](std::u16string_view piece, std::u16string& out) {
    bytes.clear();
    append_utf16_as_utf8(bytes, piece);
    for (const char byte : bytes) out += byte_symbol(static_cast<std::uint8_t>(byte));
  });
}

SplitBehavior parse_behavior(const JsonField& field) {
  const std::string& name = field.string();
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  field.bad(fmt::format("behavior \"{}\" is unknown", printable(name)));
}

SplitPattern parse_split(const JsonField& field) {
  const SplitBehavior behavior = parse_behavior(field.at("behavior"));
  const bool invert = field.at("invert").boolean();
  const JsonField pattern = field.at("pattern");
  if (pattern.object().size() != 1) pattern.bad("expected one key, Regex or String");
  if (const auto text = pattern.find("String")) return SplitPattern::from_text(text->string(), behavior, invert, *text);
  const JsonField regex = pattern.at("Regex");
  return SplitPattern::from_regex(regex.string(), behavior, invert, regex);
}

}  // namespace

struct PreTokenizer::Steps {
  struct Step {
    enum Kind { kSplit, kPrefixSpace, kMapBytes } kind;
    std::optional<SplitPattern> pattern;  // of kSplit
  };
  std::vector<Step> list;
  bool mapped = false;  // a kMapBytes is in the list

  void add(const JsonField& field);
  void add_byte_level(const JsonField& field);
  void run(Pieces& pieces) const;
};

void PreTokenizer::Steps::add_byte_level(const JsonField& field) {
  if (mapped) field.unsupported("a second ByteLevel is not implemented");
  if (field.at("add_prefix_space").boolean()) list.push_back({Step::kPrefixSpace, std::nullopt});
  if (field.flag("use_regex", true)) {
    list.push_back({Step::kSplit, SplitPattern::from_regex(kGpt2Pattern, SplitBehavior::kIsolated, false, field)});
  }
  list.push_back({Step::kMapBytes, std::nullopt});
  mapped = true;
}

void PreTokenizer::Steps::add(const JsonField& field) {
  const std::string& type = field.type();
  if (type == "Sequence") {
    const JsonField parts = field.at("pretokenizers");
    for (std::size_t i = 0; i < parts.array_size(); ++i) add(parts.element(i));
  } else if (type == "Split") {
    list.push_back({Step::kSplit, parse_split(field)});
  } else if (type == "Digits") {
    const bool each = field.at("individual_digits").boolean();
    const auto behavior = each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    list.push_back({Step::kSplit, SplitPattern::from_regex("\\p{N}", behavior, false, field)});
  } else if (type == "ByteLevel") {
    add_byte_level(field);
  } else {
    field.unsupported(fmt::format(
        "pre-tokenizer \"{}\" is not implemented; expected Split, ByteLevel, Digits or Sequence", printable(type)));
  }
}

void PreTokenizer::Steps::run(Pieces& pieces) const {
  for (const Step& step : list) {
    switch (step.kind) {
      case Step::kSplit:
        pieces.ranges = step.pattern->apply(pieces.text, pieces.ranges);
        break;
      case Step::kPrefixSpace:
        add_prefix_spaces(pieces);
        break;
      case Step::kMapBytes:
        // As the last step it is left out: its symbols would only be turned back into bytes.
        if (&step != &list.back()) map_bytes(pieces);
        break;
    }
  }
}

PreTokenizer::PreTokenizer() : steps_(std::make_unique<Steps>()) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

PreTokenizer PreTokenizer::parse(const JsonField& field) {
  PreTokenizer result;
  result.steps_->add(field);
  if (!result.steps_->mapped) field.unsupported("there is no ByteLevel; only byte-level tokenizers are implemented");
  return result;
}

void PreTokenizer::split(std::string_view text, Words& words) const {
  words.bytes.clear();
  words.ends.clear();
  if (text.empty()) return;
  if (text.size() > kMaxTextBytes) {
    throw Error(ErrorKind::kResource, fmt::format("text of {} bytes is too long to tokenize at once; the limit is {}",
                                                  text.size(), kMaxTextBytes));
  }
  Pieces pieces{utf8_to_utf16(text), {}};
  pieces.ranges.push_back({0, static_cast<std::int32_t>(pieces.text.size())});
  steps_->run(pieces);
  const bool symbols = steps_->list.back().kind != Steps::Step::kMapBytes;
  words.bytes.reserve(text.size());
  words.ends.reserve(pieces.ranges.size());
  for (const UnitRange range : pieces.ranges) {
    if (symbols) {
      for (const char16_t unit : pieces.at(range)) words.bytes += static_cast<char>(symbol_byte(unit));
    } else {
      append_utf16_as_utf8(words.bytes, pieces.at(range));
    }
    words.ends.push_back(words.bytes.size());
  }
}

}  // namespace fairway::formats
