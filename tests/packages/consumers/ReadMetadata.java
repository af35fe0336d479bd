import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.tensorflow.lite.support.metadata.MetadataExtractor;
import org.tensorflow.lite.support.metadata.schema.ImageProperties;
import org.tensorflow.lite.support.metadata.schema.NormalizationOptions;

/** Prints what Google's reader finds in .tflite files, one tab-separated line each. */
public class ReadMetadata {
    public static void main(String[] files) throws Exception {
        for (String file : files) {
            byte[] bytes = Files.readAllBytes(Path.of(file));
            ByteBuffer content = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
            content.put(bytes).rewind();
            MetadataExtractor reader = new MetadataExtractor(content);
            var model = reader.getModelMetadata();
            var input = reader.getInputTensorMetadata(0);
            var output = reader.getOutputTensorMetadata(0);
            var normalization = (NormalizationOptions) input.processUnits(0).options(new NormalizationOptions());
            var image = (ImageProperties) input.content().contentProperties(new ImageProperties());
            String labels = output.associatedFiles(0).name();
            List<String> lines = new BufferedReader(new InputStreamReader(reader.getAssociatedFile(labels))).lines().toList();
            System.out.println(String.join("\t",
                model.name(), model.version(), model.license(), "" + reader.isMinimumParserVersionSatisfied(),
                input.name(), "" + reader.getInputTensorType(0), "" + image.colorSpace(), "" + image.defaultSize().width(),
                "" + normalization.mean(0), "" + normalization.std(0), "" + input.stats().max(0),
                output.name(), String.join(",", lines)));
        }
    }
}
