package org.lastmile.inference

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import org.json.JSONException
import org.json.JSONObject

/**
 * How an image file becomes the model's input. Normalization by mean and standard deviation is part of the model's graph.
 *
 * @property color "RGB", or "L" for grayscale.
 * @property resize length in pixels that the shorter side is scaled to.
 * @property crop side in pixels of the square that is then cropped from the center.
 * @property fit "crop" as above, or "letterbox": the whole image is scaled into a square of [crop] pixels, and gray fills the rest.
 */
data class Preprocessing(val color: String, val resize: Int, val crop: Int, val fit: String = "crop") {
    /** Values per pixel. */
    val channels: Int get() = if (color == "L") 1 else 3

    companion object {
        /** Reads the preprocessing from the spec in artifact.json, or from the same JSON sent by the host. */
        fun read(json: JSONObject): Preprocessing {
            val read = Preprocessing(json.getString("color"), json.getInt("resize"), json.getInt("crop"), json.optString("fit", "crop"))
            if (read.fit !in listOf("crop", "letterbox")) throw InferenceException("preprocessing: fit must be crop or letterbox, not '${read.fit}'")
            if (read.color !in listOf("RGB", "L")) throw InferenceException("preprocessing: color must be RGB or L, not '${read.color}'")
            if (read.crop < 1 || read.resize < read.crop || read.resize > MAX_SIDE) {
                throw InferenceException(
                    "preprocessing: crop must be at least 1 and at most resize, and resize at most $MAX_SIDE; got crop ${read.crop}, resize ${read.resize}"
                )
            }
            return read
        }

        private const val MAX_SIDE = 8192
    }
}

/**
 * An exported model file and its manifest: everything that an app must know about a model.
 *
 * @property layout "NHWC" or "NCHW"; null if the input is not an image.
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
    /** The name shown to users. */
    val title: String get() = "$model $recipe, $target"

    /** The model file, after checking that its SHA-256 is the one in artifact.json; throws an [InferenceException] otherwise. */
    fun verifiedFile(): File {
        val actual =
            try {
                sha256(file)
            } catch (error: IOException) {
                throw InferenceException("cannot read $file (${error.message})", error)
            }
        if (actual != sha256) throw InferenceException("$file does not match its artifact.json (sha256 differs); copy both files again")
        return file
    }

    companion object {
        private const val SCHEMA = 1
        private val FILE_NAME = Regex("[A-Za-z0-9_][A-Za-z0-9._-]*")

        /** Reads the artifact.json in [folder]; throws an [InferenceException] that names the problem if it is invalid. */
        fun read(folder: File): Artifact {
            val manifest = File(folder, "artifact.json")
            try {
                val json = JSONObject(manifest.readText())
                val schema = json.getInt("schema")
                if (schema != SCHEMA) throw InferenceException("$manifest: schema is $schema; this version reads schema $SCHEMA")
                val name = json.getString("file")
                if (!FILE_NAME.matches(name)) throw InferenceException("$manifest: '$name' is not a plain file name")
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
                throw InferenceException("cannot read $manifest (${error.message})", error)
            } catch (error: JSONException) {
                throw InferenceException("$manifest is not a valid artifact manifest (${error.message})", error)
            }
        }
    }
}

/** A file's SHA-256 as 64 hex digits. The file is read in chunks. */
fun sha256(file: File): String = file.inputStream().use(InputStream::sha256)

/** The SHA-256 of what remains of the stream, as 64 hex digits. */
fun InputStream.sha256(): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val chunk = ByteArray(1 shl 20)
    while (true) {
        val count = read(chunk)
        if (count < 0) break
        digest.update(chunk, 0, count)
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
