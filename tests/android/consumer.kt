import java.io.File
import org.lastmile.inference.Artifact
import org.lastmile.inference.Classifier
import org.lastmile.inference.Engines
import org.lastmile.inference.InferenceException
import org.lastmile.inference.Options
import org.lastmile.inference.Pixels
import org.lastmile.inference.Session

/**
 * An app that uses the library: prints which runtimes it has, the delegate and the outputs for each image.
 *
 * Arguments: the artifact's folder; a file with the images' values.
 */
object Consumer {
    @JvmStatic
    fun main(arguments: Array<String>) {
        val artifact = Artifact.read(File(arguments[0]))
        println(Engines.all.joinToString { "${it.name} ${it.unavailable() ?: "available"}" })
        println(Engines.forFile(artifact.file.name).load(artifact.verifiedFile()).use { delegate(it) })
        val (side, channels) = artifact.preprocessing.crop to artifact.preprocessing.channels
        val values = File(arguments[1]).readBytes()
        Classifier(artifact, Options(threads = 2)).use { classifier ->
            for (start in values.indices step side * side * channels) {
                val pixels = Pixels(side, side, channels, values.copyOfRange(start, start + side * side * channels))
                println(classifier.classify(pixels).outputs.joinToString(" "))
            }
        }
    }

    private fun delegate(session: Session): String? =
        try {
            session.delegate
        } catch (error: InferenceException) {
            error.message
        }
}
