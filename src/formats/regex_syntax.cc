// A one-pass translator: it understands every construct it lets through, and refuses the rest by name.
#include "formats/regex_syntax.h"

#include <fmt/format.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>

#include "formats/utf8.h"

namespace fairway::formats {
namespace {

constexpr int kMaxGroups = 200;   // nesting of groups and classes; published patterns use two levels
constexpr int kMaxRepeat = 1000;  // ICU unrolls counted loops, so the count bounds the size of its program
constexpr char32_t kEnd = 0xFFFFFFFF;

constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";  // Oniguruma's \w, as members of a class

std::string literal(char32_t code) {
  return fmt::format("\\x{{{:X}}}", static_cast<std::uint32_t>(code));
}

bool is_ascii_alnum(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}
bool is_digit(char32_t c) {
  return c >= '0' && c <= '9';
}

int hex_value(char32_t c) {
  if (is_digit(c)) return static_cast<int>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<int>(c - 'a') + 10;
  if (c >= 'A' && c <= 'F') return static_cast<int>(c - 'A') + 10;
  return -1;
}

// A single character (is_set false) or a set of them, written for use inside or outside a class.
struct Item {
  bool is_set = false;
  char32_t code = 0;
  std::string set;
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (position_ < pattern_.size()) step();
    if (open_groups_ != 0) fail("a group is not closed");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw std::invalid_argument(fmt::format("{} (before byte {} of the pattern)", problem, position_));
  }

  char32_t peek() const { return position_ < pattern_.size() ? read_utf8(pattern_, position_).code : kEnd; }
  char32_t next() {
    if (position_ >= pattern_.size()) fail("the pattern ends too early");
    const Utf8Step step = read_utf8(pattern_, position_);
    position_ += step.length;
    return step.code;
  }
  bool accept(std::string_view text) {
    if (!pattern_.substr(position_).starts_with(text)) return false;
    position_ += text.size();
    return true;
  }

  void step() {
    const char32_t c = next();
    switch (c) {
      case '\\':
        return escape_outside();
      case '[':
        return character_class();
      case '(':
        return open_group();
      case ')':
        if (open_groups_-- == 0) fail("unmatched \")\"");
        out_ += ')';
        return;
      case '{':
        return interval();
      case '|':
      case '.':
      case '^':
      case '$':
      case '*':
      case '+':
      case '?':
        out_ += static_cast<char>(c);
        return;
      default:
        out_ += is_ascii_alnum(c) ? std::string(1, static_cast<char>(c)) : literal(c);
    }
  }

  void open_group() {
    const std::size_t start = position_ - 1;
    if (++open_groups_ > kMaxGroups) fail(fmt::format("groups are nested deeper than {}", kMaxGroups));
    if (peek() != '?') {
      out_ += "(?:";  // nothing refers to captures, so none are made
      return;
    }
    for (const std::string_view kind : {"?:", "?=", "?!", "?>", "?<=", "?<!"}) {
      if (accept(kind)) {
        out_ += fmt::format("({}", kind);
        return;
      }
    }
    next();
    option_group(start);
  }

  // (?i:...), (?m-i:...), and (?i) at the very start; elsewhere the latter has another extent in Oniguruma than in ICU.
  void option_group(std::size_t start) {
    std::string flags;
    for (char32_t c = next(); c != ':'; c = next()) {
      if (c == ')' && start == 0) {
        --open_groups_;
        out_ += fmt::format("(?{})", flags);
        return;
      }
      if (c != 'i' && c != 'm' && c != '-')
        fail("group kind other than (?: (?= (?! (?> (?<= (?<! (?i: is not supported");
      flags += c == 'm' ? 's' : static_cast<char>(c);  // "dot matches line feed" is m there and s here
    }
    out_ += fmt::format("(?{}:", flags);
  }

  // {n}, {n,}, {n,m} and {,m} are counts; any other brace is a literal, as in Oniguruma.
  void interval() {
    const std::size_t start = position_;
    const int low = number();
    const bool comma = accept(",");
    const int high = comma ? number() : low;
    if (!accept("}") || (low < 0 && high < 0)) {
      position_ = start;
      out_ += literal('{');
      return;
    }
    if (low > kMaxRepeat || high > kMaxRepeat) fail(fmt::format("a count above {} is not supported", kMaxRepeat));
    if (peek() == '+' || (peek() == '?' && !comma)) fail("a count followed by + or ? is not supported");
    out_ += comma ? fmt::format("{{{},{}}}", std::max(low, 0), high < 0 ? "" : std::to_string(high))
                  : fmt::format("{{{}}}", low);
  }

  int number() {
    int value = -1;
    while (is_digit(peek()))
      value = std::min((std::max(value, 0) * 10) + static_cast<int>(next() - '0'), kMaxRepeat + 1);
    return value;
  }

  void escape_outside() {
    switch (peek()) {
      case 'A':
      case 'z':
      case 'Z':
        out_ += fmt::format("\\{}", static_cast<char>(next()));
        return;
      case 'b':
        next();
        out_ += fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kWord);
        return;
      case 'B':
        next();
        out_ += fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", kWord);
        return;
      default:
        break;
    }
    const Item item = escape();
    out_ += item.is_set ? item.set : literal(item.code);
  }

  Item set(std::string text) const { return {true, 0, std::move(text)}; }

  // After the backslash; what means the same inside and outside a class.
  Item escape() {
    const char32_t c = next();
    switch (c) {
      case 's':
        return set("\\p{White_Space}");
      case 'S':
        return set("\\P{White_Space}");
      case 'd':
        return set("\\p{Nd}");
      case 'D':
        return set("\\P{Nd}");
      case 'w':
        return set(fmt::format("[{}]", kWord));
      case 'W':
        return set(fmt::format("[^{}]", kWord));
      case 'h':
        return set("[0-9A-Fa-f]");
      case 'H':
        return set("[^0-9A-Fa-f]");
      case 'p':
        return property(false);
      case 'P':
        return property(true);
      case 'n':
        return {false, '\n', ""};
      case 'r':
        return {false, '\r', ""};
      case 't':
        return {false, '\t', ""};
      case 'f':
        return {false, '\f', ""};
      case 'v':
        return {false, '\v', ""};
      case 'a':
        return {false, '\a', ""};
      case 'e':
        return {false, 0x1B, ""};
      case 'x':
        return {false, hex_escape(), ""};
      case 'u':
        return {false, hex_digits(4, 4), ""};
      default:
        if (is_ascii_alnum(c)) fail(fmt::format("escape \\{} is not supported", static_cast<char>(c)));
        return {false, c, ""};
    }
  }

  char32_t hex_escape() {
    if (accept("{")) {
      const char32_t code = hex_digits(1, 6);
      if (!accept("}")) fail("\\x{ is not closed");
      return code;
    }
    const char32_t code = hex_digits(1, 2);
    if (code >= 0x80) fail("\\x of a byte above 7F is not supported");
    return code;
  }

  char32_t hex_digits(int least, int most) {
    char32_t code = 0;
    int count = 0;
    for (; count < most && hex_value(peek()) >= 0; ++count) code = code * 16 + static_cast<char32_t>(hex_value(next()));
    if (count < least) fail(fmt::format("expected {} hexadecimal digits", least));
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail(fmt::format("U+{:X} is not a character", static_cast<std::uint32_t>(code)));
    return code;
  }

  // \p{Name}, \P{Name}, \p{^Name}: general categories, scripts and binary properties by their Unicode names.
  Item property(bool negated) {
    if (!accept("{")) fail("\\p without braces is not supported");
    if (accept("^")) negated = !negated;
    std::string name;
    for (char32_t c = next(); c != '}'; c = next()) {
      if (!is_ascii_alnum(c) && c != '_') fail("malformed property name");
      name += static_cast<char>(c);
    }
    // POSIX bracket names: Oniguruma and ICU give these other members.
    constexpr std::array<std::string_view, 8> kPosix = {"alnum", "blank", "graph",  "print",
                                                        "punct", "word",  "xdigit", "ascii"};
    std::string lower = name;
    for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    const bool known = u_getPropertyValueEnum(UCHAR_GENERAL_CATEGORY_MASK, name.c_str()) != UCHAR_INVALID_CODE ||
                       u_getPropertyValueEnum(UCHAR_SCRIPT, name.c_str()) != UCHAR_INVALID_CODE ||
                       is_binary_property(name);
    if (!known || std::find(kPosix.begin(), kPosix.end(), lower) != kPosix.end()) {
      fail(fmt::format("property \\p{{{}}} is not supported", name));
    }
    return set(fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name));
  }

  static bool is_binary_property(const std::string& name) {
    const UProperty property = u_getPropertyEnum(name.c_str());
    return property >= UCHAR_BINARY_START && property < UCHAR_BINARY_LIMIT;
  }

  // After the opening bracket.
  void character_class() {
    if (++open_classes_ > kMaxGroups) fail(fmt::format("classes are nested deeper than {}", kMaxGroups));
    out_ += accept("^") ? "[^" : "[";
    if (peek() == ']') fail("an empty class, or \"]\" as its first member, is not supported");
    for (;;) {
      if (accept("]")) break;
      if (accept("[:")) fail("POSIX bracket [: is not supported");
      if (accept("&&")) fail("class intersection && is not supported");
      if (accept("[")) {
        character_class();
        continue;
      }
      class_item();
    }
    out_ += ']';
    --open_classes_;
  }

  Item class_member() {
    const char32_t c = next();
    if (c != '\\') return {false, c, ""};
    if (accept("b")) return {false, '\b', ""};
    return escape();
  }

  void class_item() {
    const Item first = class_member();
    if (first.is_set) {
      out_ += first.set;
      return;
    }
    out_ += literal(first.code);
    const std::size_t dash = position_;
    if (!accept("-")) return;
    if (peek() == ']' || peek() == kEnd) {  // a dash at the end is a member
      position_ = dash;
      return;
    }
    if (peek() == '[') fail("a range to a class is not supported");
    const Item last = class_member();
    if (last.is_set) fail("a range to a class is not supported");
    if (last.code < first.code) fail("a range whose end is below its start");
    out_ += '-';
    out_ += literal(last.code);
  }

  std::string_view pattern_;
  std::size_t position_ = 0;
  std::string out_;
  int open_groups_ = 0;
  int open_classes_ = 0;
};

}  // namespace

std::string to_icu_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

std::string literal_icu_pattern(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = read_utf8(text, i);
    out += literal(step.code);
    i += step.length;
  }
  return out;
}

}  // namespace fairway::formats
