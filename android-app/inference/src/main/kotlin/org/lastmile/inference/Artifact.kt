package org.lastmile.inference

import java.io.File
import java.io.IOException
import java.security.MessageDigest
import org.json.JSONException
import org.json.JSONObject

/**
 * From a picture file to the input: the app's part of the work. Scaling by mean and deviation is in the model's graph.
 *
 * @property color "RGB", or "L" for grey.
 * @property resize the shorter side is scaled to so many pixels …
 * @property crop … and a square of so many is cut from the centre.
 */
data class Preprocessing(val color: String, val resize: Int, val crop: Int) {
    /** Values a pixel. */
    val channels: Int get() = if (color == "L") 1 else 3

    companion object {
        /** From artifact.json's spec, or the same as text from a host. */
        fun read(json: JSONObject): Preprocessing {
            val read = Preprocessing(json.getString("color"), json.getInt("resize"), json.getInt("crop"))
            if (read.color !in listOf("RGB", "L")) throw InferenceException("preprocessing: color is RGB or L, not '${read.color}'")
            if (read.crop < 1 || read.resize < read.crop || read.resize > LARGEST_SIDE) {
                throw InferenceException("preprocessing: crop is 1 to resize, and resize at most $LARGEST_SIDE; not ${read.crop} and ${read.resize}")
            }
            return read
        }

        private const val LARGEST_SIDE = 8192
    }
}

/**
 * An exported file with its manifest: all that an app must know of a model.
 *
 * @property layout "NHWC" or "NCHW"; null for what is no image.
 * @property labels class names in the order of the output.
 */
data class Artifact(
    val file: File,
    val model: String,
    val recipe: String,
    val target: String,
    val sha256: String,
    val layout: String?,
    val labels: List<String>,
    val preprocessing: Preprocessing
) {
    /** How people call it. */
    val title: String get() = "$model $recipe, $target"

    /** The model file, whose content is the one that artifact.json names; an [InferenceException] where it is another. */
    fun checked(): File {
        val found =
            try {
                sha256(file)
            } catch (error: IOException) {
                throw InferenceException("$file cannot be read (${error.message})", error)
            }
        if (found != sha256) throw InferenceException("$file is not the file of its artifact.json (sha256 differs); bring both anew")
        return file
    }

    companion object {
        private const val SCHEMA = 1
        private val PLAIN = Regex("[A-Za-z0-9_][A-Za-z0-9._-]*")

        /** The artifact whose artifact.json lies in [folder]; an [InferenceException] says what of it cannot be read. */
        fun read(folder: File): Artifact {
            val manifest = File(folder, "artifact.json")
            try {
                val json = JSONObject(manifest.readText())
                val schema = json.getInt("schema")
                if (schema != SCHEMA) throw InferenceException("$manifest: schema $schema is not $SCHEMA, the one this version reads")
                val name = json.getString("file")
                if (!PLAIN.matches(name)) throw InferenceException("$manifest: '$name' is not a plain file name")
                val spec = json.getJSONObject("spec")
                val labels = spec.getJSONArray("labels")
                return Artifact(
                    file = File(folder, name),
                    model = json.getString("model"),
                    recipe = json.getString("recipe"),
                    target = json.getString("target"),
                    sha256 = json.getString("sha256"),
                    layout = json.getJSONArray("inputs").getJSONObject(0).let { if (it.isNull("layout")) null else it.getString("layout") },
                    labels = List(labels.length()) { labels.getString(it) },
                    preprocessing = Preprocessing.read(spec.getJSONObject("preprocessing"))
                )
            } catch (error: IOException) {
                throw InferenceException("$manifest cannot be read (${error.message})", error)
            } catch (error: JSONException) {
                throw InferenceException("$manifest is not an artifact's manifest (${error.message})", error)
            }
        }
    }
}

/** A file's SHA-256 as 64 hex digits, read in pieces. */
fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    file.inputStream().use { input ->
        val piece = ByteArray(1 shl 20)
        while (true) {
            val count = input.read(piece)
            if (count < 0) break
            digest.update(piece, 0, count)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
