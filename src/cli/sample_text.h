// Ordinary English for recording what a model's layers see, where the user gives no text. Written for this purpose.
#pragma once

namespace fairway::cli {

inline constexpr const char* kSampleText =
    "The ferry left the harbour a little after six, when the fog had thinned enough to show the first buoy. Anna stood "
    "at the rail with her collar up and counted the windows of the houses along the quay, as she had done every autumn "
    "since she was a child. There were forty-one of them, and one was lit. \"Somebody is awake,\" she said. The old "
    "man "
    "beside her did not turn his head. \"That is the baker,\" he answered. \"He has been up since three.\"\n\n"
    "They did not speak again until the engine changed its note and the island came out of the grey, first as a line, "
    "then as a row of trees. In the letter, which she had read so often that it had begun to come apart at the folds, "
    "her brother described a path from the landing to the house: left at the chapel, over the wooden bridge, and "
    "uphill "
    "for about 800 metres. He had drawn a small map in the margin, not to scale, and had written underneath it that "
    "the "
    "key would be where it always was.\n\n"
    "Why does bread rise? Yeast feeds on the sugar in the dough and gives off carbon dioxide; the gas is caught in a "
    "net "
    "of gluten, which stretches as the bubbles grow. If the dough is too warm, the yeast works quickly and the taste "
    "is "
    "poor; if it is too cold, nothing seems to happen for hours. Most recipes ask for 24 to 27 degrees, a pinch of "
    "salt, "
    "and patience. Weigh the flour instead of measuring it by cups, because a cup of flour may hold anything between "
    "110 "
    "and 160 grams.\n\n"
    "In the evening the three of them sat around the table and tried to remember the rules of a game that nobody had "
    "played for years. \"You may not take a card unless you have one to give,\" said Anna. \"No, that was another "
    "game,\" "
    "said her brother, and laughed. Outside the wind had turned to the west, and the lamp above the door moved slowly, "
    "so "
    "that the shadows of the chairs went to and fro across the floor like people who cannot decide whether to stay.\n";

}  // namespace fairway::cli
